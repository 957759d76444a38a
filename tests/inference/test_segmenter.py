"""A snapshot is self-contained: it decides method, networks and classes, whatever config.py contains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console

from furnace.datasets.catalog import CATALOG
from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.inference.segmenter import Segmenter, load_segmenter
from furnace.seg_opr.sliding import starts
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_data import write_palette_label
from tests.tiny_run import NARROW, SIDE, write_lively


@pytest.fixture
def snapshot_of(make_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Path]:
    def write(method: str, **changes) -> Path:
        return write_lively(make_settings(method=method, **changes, **NARROW), tmp_path / f"{method}.pth")

    return write


@pytest.mark.parametrize(
    ("method", "changes", "branches", "reported"),
    [("supervised", {}, 1, "1"), ("mean_teacher", {}, 2, "2"), ("cps", {"teacher": "ema"}, 4, "3")],
)
def test_the_snapshot_decides_which_networks_to_build(make_settings, snapshot_of, method, changes, branches, reported):
    """Even if config.py has cpcl with strong views; the scores are those of the branch that the method reports."""
    path = snapshot_of(method, **changes)
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, strong=True, amp="off", **NARROW), CPU)
    segmenter.load(path)
    assert (len(segmenter.network.branches), segmenter.branch) == (branches, reported)

    state = torch.load(path, weights_only=True)["model"]
    chosen = segmenter.network.get_submodule(f"branch{reported}").state_dict()
    assert all(torch.equal(value, state[f"branch{reported}.{name}"]) for name, value in chosen.items())
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    inputs = segmenter.to_input(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        scores = segmenter.window.scores(image, segmenter.window_scores, segmenter.to_input)
        torch.testing.assert_close(scores, segmenter.network(inputs, int(reported))[0], rtol=1e-4, atol=1e-4)


def test_a_branch_that_the_method_lacks_is_refused(make_settings, snapshot_of):
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, **NARROW), CPU, "2")
    segmenter.load(snapshot_of("cps"))
    with pytest.raises(UserError, match="'supervised' trains one branch only"):
        segmenter.load(snapshot_of("supervised"))
    segmenter.asked = "3"
    with pytest.raises(UserError, match="--branch 3: method 'cps' has 2 branches"):
        segmenter.load(snapshot_of("cps"))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8), np.uint8),
        [[1]],
    ],
)
def test_other_arrays_than_rgb_bytes_are_refused(snapshot_of, image) -> None:
    segmenter = load_segmenter(snapshot_of("supervised"), "cpu")
    with pytest.raises(UserError, match=r"^image: is .*; give a NumPy array of uint8 of shape"):
        segmenter(image)


def test_an_array_that_can_not_be_changed_is_segmented_without_a_warning(snapshot_of, recwarn) -> None:
    segmenter, image = load_segmenter(snapshot_of("supervised"), torch.device("cpu")), np.zeros((8, 9, 3), np.uint8)
    image.flags.writeable = False
    assert segmenter(image).shape == (8, 9) and not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.parametrize("branch", ["0", "-1", "x", 1])
def test_a_branch_that_does_not_exist_is_refused(snapshot_of, branch) -> None:
    with pytest.raises(UserError, match=r"^branch = .*: choose one of 1, 2, 3, 4, both, or None"):
        load_segmenter(snapshot_of("supervised"), "cpu", branch)


def test_a_snapshot_without_the_setting_teacher_opens(make_settings, snapshot_of):
    path = snapshot_of("mean_teacher")
    content = torch.load(path, weights_only=True)
    del content["settings"]["teacher"]
    torch.save(content, path)
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, **NARROW), CPU)
    segmenter.load(path)
    assert (segmenter.branch, load_segmenter(path, "cpu").branch) == ("2", "2")


def test_two_lines_of_python_label_an_image(snapshot_of):
    segmenter = load_segmenter(snapshot_of("mean_teacher"), "cpu", eval_crop_size=SIDE)
    image = np.random.default_rng(0).integers(0, 256, (35, 47, 3), dtype=np.uint8)
    labels = segmenter(image)
    assert (labels.shape, labels.dtype, segmenter.branch) == ((35, 47), np.uint8, "2")
    again, probabilities = segmenter(image, probabilities=True)
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), labels)


def test_architecture_classes_and_normalisation_are_those_of_the_snapshot(make_settings, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "plain.pth")
    theirs = {
        "num_classes": 3, "class_names": ["cat", "dog", "cow"], "dataset_name": "pets", "image_mean": [0.1, 0.2, 0.3],
        "backbone": "resnet18", "pretrained_model": str(tmp_path / "plain.pth"), "method": "supervised", **NARROW,
    }  # fmt: skip
    trained = make_settings(**theirs, log_dir=str(tmp_path), snapshot_dir=str(tmp_path), nepochs=1, niters_per_epoch=1)
    for name in ("labeled", "unlabeled"):
        path = Path(getattr(trained, "train_source" if name == "labeled" else "unsup_source"))
        for line in path.read_text().split():
            label = Path(trained.dataset_path) / "train_aug" / "label" / f"{line}.png"
            write_palette_label(label, np.asarray(Image.open(label)) % 3)
    Trainer(trained, CPU, console=Console(quiet=True)).fit()

    segmenter = Segmenter(make_settings(eval_crop_size=SIDE), CPU)
    segmenter.load(tmp_path / "epoch-last.pth")
    assert segmenter.network.branch1.backbone.conv1.kernel_size == (7, 7), "the stem of the weights"
    assert (segmenter.C.num_classes, segmenter.C.head_channels, segmenter.C.method) == (3, 8, "supervised")
    assert segmenter.classes.names == ("cat", "dog", "cow")
    torch.testing.assert_close(segmenter.normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert segmenter.C.eval_source == make_settings().eval_source, "what to evaluate on is not the snapshot's"


def test_a_published_file_has_the_method_of_config_py_after_another_method(make_settings, snapshot_of, tmp_path):
    published = tmp_path / "published.pth"
    torch.save({"model": torch.load(snapshot_of("cpcl"), weights_only=True)["model"], "epoch": 1}, published)
    C = make_settings(eval_crop_size=SIDE, **NARROW)
    segmenter = Segmenter(C, CPU)
    segmenter.load(snapshot_of("supervised"))
    segmenter.load(published)
    assert (segmenter.C.method, len(segmenter.network.branches)) == ("cpcl", 2)
    with pytest.raises(UserError, match=r"published\.pth: contains no settings; name the experiment"):
        load_segmenter(published)
    assert load_segmenter(published, "cpu", C=C).C.method == "cpcl"


@pytest.mark.parametrize("settings", [{"num_classes": "many"}, {"method": "magic"}, {"backbone": "resnet51"}])
def test_settings_that_can_not_be_used_are_named(make_settings, snapshot_of, settings):
    path = snapshot_of("cpcl")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"settings": content["settings"] | settings}, path)
    with pytest.raises(UserError, match=rf"cpcl\.pth: its settings can't be used \({next(iter(settings))}: "):
        Segmenter(make_settings(eval_crop_size=SIDE, **NARROW), CPU).load(path)


def fit(C: Settings, resume: str | None = None) -> dict:
    Trainer(C, CPU, resume, console=Console(quiet=True)).fit()
    return torch.load(Path(C.snapshot_dir) / "epoch-last.pth", weights_only=True)


def test_mean_teacher_continues_from_a_snapshot_as_if_never_stopped(make_settings, tmp_path):
    def settings(folder: str) -> Settings:
        places = {"log_dir": str(tmp_path / folder), "snapshot_dir": str(tmp_path / folder)}
        return make_settings(method="mean_teacher", snapshot_iter=1, nepochs=3, niters_per_epoch=2, **places, **NARROW)

    whole = fit(settings("whole"))
    assert "optimizer_1" in whole and "optimizer_2" not in whole
    resumed = fit(settings("resumed"), str(tmp_path / "whole" / "epoch-1.pth"))
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
    student, teacher = (whole["model"][f"branch{number}.classifier.weight"] for number in (1, 2))
    assert not torch.equal(student, teacher)


@pytest.mark.parametrize("method", ["supervised", "cps", "mean_teacher", "cpcl", "unimatch"])
def test_every_method_trains_without_cutmix(make_settings, tmp_path, method):
    places = {"log_dir": str(tmp_path), "snapshot_dir": str(tmp_path)}
    model = fit(make_settings(method=method, cutmix=False, nepochs=1, niters_per_epoch=1, **places, **NARROW))["model"]
    assert all(value.isfinite().all() for value in model.values())


def test_probabilities_are_those_of_the_mean_logits_over_overlapping_windows(make_settings, lively_snapshot) -> None:
    C = make_settings(eval_crop_size=40, eval_stride_rate=0.5, **NARROW)
    segmenter = Segmenter(C, torch.device("cpu"), "1")
    segmenter.load(lively_snapshot)
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    _, found = segmenter(image, probabilities=True)
    sums, counts = torch.zeros(C.num_classes, 60, 70), torch.zeros(60, 70)
    with torch.inference_mode():
        for top in starts(60, 40, 0.5):
            for left in starts(70, 40, 0.5):
                window = torch.from_numpy(image[top : top + 40, left : left + 40]).permute(2, 0, 1)[None]
                logits = segmenter.window_scores(segmenter.to_input(window))[0]
                sums[:, top : top + 40, left : left + 40] += logits
                counts[top : top + 40, left : left + 40] += 1
    assert counts.max() > 1
    np.testing.assert_allclose(found, (sums / counts).softmax(0).numpy(), atol=1e-5)


def test_given_class_names_are_used_if_the_snapshot_has_none(make_settings, tmp_path):
    names = ["背景", *(f"thing {i}" for i in range(1, make_settings().num_classes))]
    unnamed, named = make_settings(method="supervised", dataset_name="mine", **NARROW), tmp_path / "named.pth"
    write_lively(unnamed, tmp_path / "unnamed.pth")
    content = torch.load(tmp_path / "unnamed.pth", weights_only=True)
    own = [f"their\n{i}" for i in range(len(names))]
    torch.save(content | {"classes": {"names": own, "palette": [[i, i, i] for i in range(len(own))]}}, named)
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, class_names=names, **NARROW), CPU)
    segmenter.load(tmp_path / "unnamed.pth")
    assert (segmenter.classes.names, segmenter.notes) == (tuple(names), [])
    segmenter.load(named)
    assert segmenter.classes.names == tuple(f"their\\n{i}" for i in range(len(own))), "control characters are escaped"
    (note,) = segmenter.notes
    assert "背景" in note and str(named) in note and "their" in note


def test_given_colours_replace_those_of_a_snapshot(C, lively_snapshot):
    colours = [(number, 255, 0) for number in range(C.num_classes)]
    for given, expected in ((C, CATALOG["pascal_voc"].palette), (C.updated(class_colors=colours), tuple(colours))):
        segmenter = Segmenter(given, CPU)
        segmenter.load(lively_snapshot)
        assert segmenter.classes.palette == expected and segmenter.classes.names == CATALOG["pascal_voc"].names


def test_colours_for_another_number_of_classes_are_noted(C, make_settings, lively_snapshot):
    given = make_settings(num_classes=3, class_colors="#ff0000,#00ff00,#0000ff", eval_crop_size=SIDE, **NARROW)
    segmenter = Segmenter(given, CPU)
    segmenter.load(lively_snapshot)
    assert segmenter.classes == CATALOG["pascal_voc"]
    assert segmenter.notes == [f"class_colors: 3 given, but {lively_snapshot} has 21 classes; not used"]
