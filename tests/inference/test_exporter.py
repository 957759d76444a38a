"""Exported files, run by onnxruntime and PyTorch's loaders at other image sizes, against the network."""

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from timm.layers import padding
from torch import Tensor, nn

from furnace.base_model.timm_encoders import padding_of_any_size
from furnace.inference import exporter
from furnace.inference.exporter import METADATA, Exporter, Form
from furnace.inference.segmenter import Segmenter
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_run import NARROW, SIDE, load_plain, place, write_lively

PIXELS = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 3, 47, 70), dtype=np.uint8))
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@torch.no_grad()
def plain_scores(C: Settings, branch: str) -> Tensor:
    network = load_plain(Path(C.snapshot_dir) / "epoch-1.pth", C)
    inputs = (PIXELS / 255 - MEAN) / STD
    if branch == "both":
        return (network(inputs, 1).softmax(1) + network(inputs, 2).softmax(1)) / 2
    return network(inputs, int(branch))


@pytest.fixture
def export(C, console) -> Callable[[str, Form], tuple[Path, str]]:
    """`export(branch, form)` exports the last snapshot; returns the file's path and the console's output."""
    return lambda branch, form: (Exporter(C, branch, form, console).run("last"), console.file.getvalue())


def opened(path: Path, form: Form) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """The function in the file, loaded by its runtime, and the metadata."""
    if form.kind == "onnx":
        session = onnxruntime.InferenceSession(str(path))
        outputs = ["labels" if form.labels else "scores"]
        metadata = session.get_modelmeta().custom_metadata_map
        return lambda images: torch.from_numpy(session.run(outputs, {"images": images.numpy()})[0]), metadata
    extra = {METADATA: ""}
    if form.kind == "pt2":
        run = torch.export.load(path, extra_files=extra).module(check_guards=False)  # as docs/evaluation.md says
    else:
        run = torch.jit.load(path, _extra_files=extra)
    return run, json.loads(extra[METADATA])


def weight_count(path: Path, kind: str) -> int:
    """Number of float32 weights in an exported file."""
    if kind == "onnx":
        arrays = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
        return sum(array.size for array in arrays if array.dtype == np.float32)
    module = torch.export.load(path) if kind == "pt2" else torch.jit.load(path)
    tensors = module.state_dict if kind == "pt2" else module.state_dict()
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(("kind", "branch"), [("onnx", "1"), ("pt2", "2")])
def test_labels(C, export, kind, branch):
    form = Form(kind, normalize=True, labels=True)
    path, said = export(branch, form)
    run, metadata = opened(path, form)
    found, expected = run(PIXELS), plain_scores(C, branch).argmax(1)
    assert len(expected.unique()) > 2 and found.dtype == torch.uint8
    assert (found != expected).double().mean() < 1e-3
    assert json.loads(metadata["classes"])[15] == "person"
    assert json.loads(metadata["palette"])[1] == [128, 0, 0]
    assert json.loads(metadata["mean"]) == list(C.image_mean)
    assert "uint8" in metadata["input"] and "labels" in metadata["output"] and json.loads(metadata["epoch"]) == 1
    assert said.count("share of labels that differ") == 4 and "2009_000000 1x3x" in said and "largest of all" in said
    if kind == "onnx":
        onnx.checker.check_model(onnx.load(path))


@pytest.mark.parametrize(("kind", "branch"), [("onnx", "1"), ("onnx", "both"), ("torchscript", "2"), ("pt2", "both")])
def test_scores_of_normalised_images(C, export, kind, branch):
    rtol = 1e-3 if kind == "onnx" else 1e-4
    path, said = export(branch, Form(kind))
    run, metadata = opened(path, Form(kind))
    expected = plain_scores(C, branch)
    atol = rtol / 10 * expected.abs().max().item()  # another layout of the weights changes rounding
    torch.testing.assert_close(run((PIXELS / 255 - MEAN) / STD), expected, rtol=rtol, atol=atol)
    assert "float32, (pixel / 255 - mean) / std" in metadata["input"] and json.loads(metadata["branch"]) == branch
    assert ("probabilities" if branch == "both" else "logits") in metadata["output"]
    assert json.loads(metadata["scales"]) == [1.0]
    branches = load_plain(Path(C.snapshot_dir) / "epoch-1.pth", C).branches
    chosen = branches if branch == "both" else [branches[int(branch) - 1]]
    expected_count = sum(parameter.numel() for one in chosen for parameter in one.parameters())
    assert weight_count(path, kind) == pytest.approx(expected_count, rel=0.1), "one branch only, or both"
    assert said.count("largest difference") == 4


def test_a_file_that_differs_is_refused(C, export, console, monkeypatch):
    def load_wrong(path: Path) -> Callable[[Tensor], Tensor]:
        run = torch.jit.load(path)
        return lambda images: run(images.flip(-1))

    monkeypatch.setitem(exporter.LOAD, "torchscript", load_wrong)
    with pytest.raises(UserError, match="differs from the network"):
        export("1", Form("torchscript"))
    folder = Path(C.log_dir) / "export"
    assert list(folder.iterdir()) == []
    kept = folder / "model.pt"
    kept.write_text("the one before")
    with pytest.raises(UserError, match="not written"):
        Exporter(C, "1", Form("torchscript"), console).run("last", kept)
    assert kept.read_text() == "the one before" and list(folder.iterdir()) == [kept]


def test_without_images_and_with_several_snapshots(C, tmp_path, lively_snapshot, console):
    place(lively_snapshot, C, "epoch-3.pth")
    with pytest.raises(UserError, match="names 2 snapshots"):
        Exporter(C, "1", Form("torchscript")).run("1-")
    C = C.updated(eval_source="nowhere.txt")
    path = Exporter(C, "1", Form("torchscript", labels=True), console).run("last")
    assert "not compared on real images: nowhere.txt" in console.file.getvalue() and path.is_file()
    (tmp_path / "list.txt").write_text("gone.png")
    C = C.updated(eval_source=str(tmp_path / "list.txt"))
    Exporter(C, "1", Form("torchscript", labels=True), console).run("last")
    assert re.search(r"not compared on real images: .*gone\.png: no such file", console.file.getvalue())


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_an_unsuitable_path_is_refused_before_the_work(C, tmp_path, console, monkeypatch, name):
    monkeypatch.setattr(Segmenter, "load", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=r"--format torchscript writes one file; name it, such as model\.pt$"):
        Exporter(C, "1", Form("torchscript"), console).run("last", tmp_path / name)


@pytest.fixture
def of_timm(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    """Settings with a snapshot of a pyramid of timm that pads as TensorFlow does."""
    C = make_settings(backbone="test_resnet", log_dir=str(tmp_path / "log"), eval_crop_size=SIDE, **NARROW)
    write_lively(C, Path(C.snapshot_dir) / "epoch-1.pth")
    return C


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_files_with_encoders_of_timm_take_images_of_any_size(of_timm, console, kind):
    path = Exporter(of_timm, "1", Form(kind, normalize=True), console).run("1")
    run, metadata = opened(path, Form(kind))
    network = load_plain(Path(of_timm.snapshot_dir) / "epoch-1.pth", of_timm)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (of_timm.image_mean, of_timm.image_std))
    inputs = (PIXELS / 255 - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(run(PIXELS), network(inputs, 1), rtol=1e-4, atol=1e-4)
    assert metadata["input"].startswith('"(B, 3, H, W)') and "impossible" not in console.file.getvalue()


def test_a_file_takes_one_size_if_an_encoder_can_not_be_exported_for_any(of_timm, console, monkeypatch):
    kind = "torchscript"
    save = exporter.SAVE[kind]

    def save_one_size(model: nn.Module, *others) -> None:
        if model.side is None:
            raise RuntimeError("sizes must be constant")
        save(model, *others)

    monkeypatch.setitem(exporter.SAVE, kind, save_one_size)
    path = Exporter(of_timm, "1", Form(kind), console).run("1")
    _, metadata = opened(path, Form(kind))
    assert f"any size (sizes must be constant); now for {SIDE}x{SIDE}" in console.file.getvalue()
    assert metadata["input"].startswith(f'"(B, 3, {SIDE}, {SIDE})')


def test_only_encoders_of_libraries_are_tried_twice(make_settings, of_timm, console, tmp_path):
    def sides(**changes) -> list[int | None]:
        exporter = Exporter(
            make_settings(eval_crop_size=32, image_height=32, image_width=32, **changes), "1", Form("onnx")
        )
        exporter.segmenter.C = exporter.C  # as if a snapshot were loaded
        return exporter.sides()

    assert sides(backbone="resnet18") == [None] and sides(backbone="test_resnet") == [None, 32]
    assert sides(backbone="test_vit") == [32] == sides(backbone="resnet18", decoder="upernet")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*: can't be written"):
        Exporter(of_timm, "1", Form("torchscript"), console).run("1", tmp_path / "file" / "model.pt")
    assert "impossible" not in console.file.getvalue()


def test_paddings_of_any_size_are_those_of_timm():
    sizes = list(product(range(1, 40), (1, 2, 3, 5, 7), (1, 2, 3, 4), (1, 2)))
    expected = [padding.get_same_padding(*size) for size in sizes]
    with padding_of_any_size():
        assert [padding.get_same_padding(*size) for size in sizes] == expected
        traced = padding.get_same_padding(torch.tensor(7), 3, 2, 1)
    assert int(traced) == padding.get_same_padding(7, 3, 2, 1)
