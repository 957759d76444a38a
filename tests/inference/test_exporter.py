"""Exported files, run by onnxruntime and PyTorch's loaders at sizes of their own, against the network."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import Tensor

from furnace.inference import exporter
from furnace.inference.exporter import METADATA, Exporter, Form
from furnace.inference.segmenter import Segmenter
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_run import NARROW, load_plain, place

PIXELS = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 3, 47, 70), dtype=np.uint8))
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path, lively_snapshot: Path) -> Settings:
    C = make_settings(log_dir=str(tmp_path / "log"), **NARROW)
    place(lively_snapshot, C)
    return C


@torch.no_grad()
def plain_scores(C: Settings, branch: str) -> Tensor:
    network = load_plain(Path(C.snapshot_dir) / "epoch-1.pth", C)
    inputs = (PIXELS / 255 - MEAN) / STD
    if branch == "both":
        return (network(inputs, 1).softmax(1) + network(inputs, 2).softmax(1)) / 2
    return network(inputs, int(branch))


def export(C: Settings, branch: str, form: Form) -> tuple[Path, str]:
    console = Console(file=StringIO(), width=200)
    return Exporter(C, branch, form, console).run("last"), console.file.getvalue()


def test_onnx(C):
    path, said = export(C, "1", Form("onnx", normalize=True, labels=True))
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(["labels"], {"images": PIXELS.numpy()})
    expected = plain_scores(C, "1").argmax(1)
    assert len(expected.unique()) > 2 and found.dtype == np.uint8
    assert (torch.from_numpy(found) != expected).double().mean() < 1e-3
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"])[15] == "person"
    assert json.loads(metadata["palette"])[1] == [128, 0, 0]
    assert json.loads(metadata["mean"]) == list(C.image_mean)
    assert "uint8" in metadata["input"] and json.loads(metadata["epoch"]) == 1
    onnx.checker.check_model(onnx.load(path))
    assert said.count("share of labels that differ") == 4 and "2009_000000 1x3x" in said and "largest of all" in said


@pytest.mark.parametrize("branch", ["1", "both"])
def test_onnx_of_scores_takes_normalised_images(C, branch):
    path, said = export(C, branch, Form("onnx"))
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(["scores"], {"images": ((PIXELS / 255 - MEAN) / STD).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), plain_scores(C, branch), rtol=1e-3, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert "float32, (pixel / 255 - mean) / std" in metadata["input"] and json.loads(metadata["branch"]) == branch
    assert ("probabilities" if branch == "both" else "logits") in metadata["output"]
    assert said.count("largest difference") == 4


def test_pt2_of_labels(C):
    path, said = export(C, "2", Form("pt2", normalize=True, labels=True))
    extra = {METADATA: ""}
    found = torch.export.load(path, extra_files=extra).module()(PIXELS)
    expected = plain_scores(C, "2").argmax(1)
    assert len(expected.unique()) > 2 and found.dtype == torch.uint8
    assert (found != expected).double().mean() < 1e-3
    assert "labels" in json.loads(extra[METADATA])["output"]
    assert said.count("share of labels that differ") == 4


@pytest.mark.parametrize(("kind", "branch"), [("torchscript", "2"), ("pt2", "both")])
def test_pytorch_formats(C, kind, branch):
    path, said = export(C, branch, Form(kind))
    extra = {METADATA: ""}
    if kind == "pt2":
        run = torch.export.load(path, extra_files=extra).module()
    else:
        run = torch.jit.load(path, _extra_files=extra)
    expected = plain_scores(C, branch)
    torch.testing.assert_close(run((PIXELS / 255 - MEAN) / STD), expected, rtol=1e-4, atol=1e-5)
    metadata = json.loads(extra[METADATA])
    assert json.loads(metadata["branch"]) == branch
    assert ("probabilities" if branch == "both" else "logits") in metadata["output"]
    # One branch's file holds one branch.
    assert (
        path.stat().st_size < (1.1 if branch == "both" else 0.6) * (Path(C.snapshot_dir) / "epoch-1.pth").stat().st_size
    )
    assert said.count("largest difference") == 4


def test_a_file_that_differs_is_refused(C, monkeypatch):
    def load_wrong(path: Path) -> Callable[[Tensor], Tensor]:
        run = torch.jit.load(path)
        return lambda images: run(images.flip(-1))

    monkeypatch.setitem(exporter.LOAD, "torchscript", load_wrong)
    with pytest.raises(UserError, match="differs from the network"):
        export(C, "1", Form("torchscript"))
    folder = Path(C.log_dir) / "export"
    assert list(folder.iterdir()) == []
    kept = folder / "model.pt"
    kept.write_text("the one before")
    with pytest.raises(UserError, match="not written"):
        Exporter(C, "1", Form("torchscript"), Console(file=StringIO())).run("last", kept)
    assert kept.read_text() == "the one before" and list(folder.iterdir()) == [kept]


def test_without_images_and_with_several_snapshots(C, lively_snapshot):
    place(lively_snapshot, C, "epoch-3.pth")
    with pytest.raises(UserError, match="names 2 snapshots"):
        Exporter(C, "1", Form("torchscript")).run("1-")
    C = C.updated(eval_source="nowhere.txt")
    path, said = export(C, "1", Form("torchscript", labels=True))
    assert "not compared on real images: nowhere.txt" in said and path.is_file()


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_a_path_of_another_kind_is_refused_before_the_work(C, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Segmenter, "load", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=r"--format torchscript writes one file; name it, such as model\.pt$"):
        Exporter(C, "1", Form("torchscript"), Console(file=StringIO())).run("last", tmp_path / name)
