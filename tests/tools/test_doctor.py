"""The doctor: a sound experiment passes, and every kind of fault is found, named, and told by the exit status."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from furnace.checks import checkup, resources
from furnace.checks.estimate import Estimate
from furnace.datasets import protocols
from furnace.datasets.inspection import duplicates, open_listing
from furnace.datasets.reading import read_label
from furnace.datasets.splits import list_hash
from furnace.tools import doctor
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY, TINY_RUN
from tests.tiny_data import NUM_CLASSES, PALETTE, write_image, write_palette_label

LABELED = "subset_train_aug/train_aug_labeled_1-8.txt"
UNLABELED = "subset_train_aug/train_aug_unlabeled_1-8.txt"


@pytest.fixture
def examine(tmp_path: Path, voc_root: Path, capsys: pytest.CaptureFixture) -> Callable:
    """`examine("--full", key=value)`: the exit status, and the output with its lines joined."""
    settings = {**TINY_RUN, "volna": tmp_path, "head_channels": 8}

    def run(*arguments: str, **changes) -> tuple[int, str]:
        overrides = [f"-o{name}={value}" for name, value in {**settings, **changes}.items()]
        status = doctor.main([str(REPOSITORY / "exp_voc"), "-d", "cpu", *overrides, *arguments])
        return status, re.sub(r"\s+", " ", capsys.readouterr().out)

    return run


@pytest.fixture
def without_time(monkeypatch) -> None:
    """Leave out the measurement of the training time."""
    monkeypatch.setattr(checkup, "check_time", lambda C, device: [])


def test_a_sound_experiment_passes(examine, voc_root: Path) -> None:
    status, output = examine("--full")
    assert status == 0
    assert f"ok labelled list 5 images; no published protocol; sha256 {list_hash(voc_root / LABELED)[:12]}..." in output
    assert "ok unlabelled list 7 images" in output
    assert "ok validation list 3 images" in output
    for pair in ("labelled / unlabelled", "labelled / validation", "unlabelled / validation"):
        assert f"ok {pair} no image in both" in output
    assert "ok labelled files all images and labels are there" in output
    assert "ok unlabelled contents all decode" in output
    assert "ok duplicate images none" in output
    assert "note pretrained weights random" in output
    assert "ok recipe 2 epochs of 3 iterations, 6 in all" in output
    assert re.search(r"ok training time about [\d.]+ m?s on cpu \(\d+ threads?\), without evaluation", output)
    assert "problems: 0" in output


def remove_image(root: Path) -> None:
    (root / "train_aug/image/2007_000001.png").unlink()


def remove_label(root: Path) -> None:
    (root / "val/label/2009_000002.png").unlink()


def damage_image(root: Path) -> None:
    (root / "train_aug/image/2008_000003.png").write_bytes(b"damaged")


def damage_label(root: Path) -> None:
    (root / "train_aug/label/2007_000003.png").write_bytes(b"damaged")


def change_value(root: Path) -> None:
    path = root / "val/label/2009_000001.png"
    label = read_label(path, NUM_CLASSES).copy()
    label[0, 0] = NUM_CLASSES
    write_palette_label(path, label)


def change_size(root: Path) -> None:
    write_image(root / "train_aug/image/2007_000002.png", np.zeros((7, 9, 3), np.uint8))


def share_with_unlabeled(root: Path) -> None:
    with open(root / UNLABELED, "a") as file:
        file.write("\n2007_000004\n")


def link_to_validation(root: Path) -> None:
    path = root / "train_aug/image/2007_000000.png"
    path.unlink()
    os.link(root / "val/image/2009_000000.png", path)
    shutil.copy(root / "val/label/2009_000000.png", root / "train_aug/label/2007_000000.png")


def copy_to_validation(root: Path) -> None:
    shutil.copy(root / "train_aug/image/2008_000000.png", root / "val/image/2009_000000.png")
    shutil.copy(root / "train_aug/label/2008_000000.png", root / "val/label/2009_000000.png")


def repeat_line(root: Path) -> None:
    with open(root / LABELED, "a") as file:
        file.write("\n2007_000004\n")


def spoil_line(root: Path) -> None:
    with open(root / LABELED, "a") as file:
        file.write("\na\tb\tc\nnowhere\n")


FAULTS = {
    remove_image: r"problem labelled list \S+:2: no image \S+2007_000001\.\*",
    remove_label: r"problem validation files 1 file missing: \S+val/label/2009_000002\.png",
    damage_image: r"problem unlabelled decodes 1 of 7: \S+2008_000003\.png: can't be decoded.* -> copy these files",
    damage_label: r"problem labelled decodes 1 of 5: \S+label/2007_000003\.png: can't be decoded",
    change_value: r"problem validation values 1 of 3: \S+2009_000001\.png: label value 21 is neither a class",
    change_size: r"problem labelled same size 1 of 5: \S+label/2007_000002\.png: \d+x\d+ pixels, but its image .* 9x7",
    share_with_unlabeled: r"problem labelled / unlabelled 1 image in both: 2007_000004 -> take them out",
    link_to_validation: r"problem labelled / validation 1 image in both: 2007_000000 -> .* scores are too high",
    copy_to_validation: r"problem duplicate images 1 image with copies in training and validation: "
    r"\S+image/2008_000000\.png = \S+2009_000000\.png",
    repeat_line: r"problem labelled list 1 lines are repetitions",
    spoil_line: r"problem labelled list \S+:6: can't read .* \(and 1 more lines\)",
}


@pytest.mark.usefixtures("without_time")
@pytest.mark.parametrize("harm", FAULTS, ids=lambda harm: harm.__name__)
def test_a_fault_is_named_and_told_by_the_status(examine, voc_root: Path, harm: Callable[[Path], None]) -> None:
    harm(voc_root)
    status, output = examine("--full")
    assert status == 1
    assert re.search(FAULTS[harm], output), output
    assert "problems: 1," in output


SETTINGS = {
    "train_source": ("/nowhere.txt", r"problem labelled list /nowhere\.txt: no such list"),
    "pretrained_model": ("/nowhere.pth", r"problem pretrained weights /nowhere\.pth: no such file"),
}


@pytest.mark.usefixtures("without_time")
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_faulty_setting_is_named(examine, setting: str) -> None:
    value, expected = SETTINGS[setting]
    status, output = examine(**{setting: value})
    assert status == 1
    assert re.search(expected, output), output


@pytest.mark.usefixtures("without_time")
def test_too_little_room_for_the_cache_is_a_problem(examine, tmp_path: Path, monkeypatch) -> None:
    status, output = examine(cache=tmp_path / "cache")
    assert (status, "ok cache C.cache = " in output) == (0, True)
    monkeypatch.setattr(resources, "free_bytes", lambda folder: 1000)
    status, output = examine(cache=tmp_path / "cache")
    assert status == 1
    assert re.search(r"problem cache .* [\d.]+ KiB still needed, 1000 bytes free in \S+cache -> make room", output)


@pytest.mark.usefixtures("without_time")
def test_the_fault_of_the_published_few_label_lists_is_named_but_no_problem(examine, voc_root, monkeypatch) -> None:
    share_with_unlabeled(voc_root)
    known = {list_hash(voc_root / LABELED): "few, labelled", list_hash(voc_root / UNLABELED): "few, unlabelled"}
    monkeypatch.setattr(protocols, "PROTOCOLS", known)
    status, output = examine()
    assert status == 0
    assert "ok labelled list 5 images; few, labelled;" in output
    assert "note labelled / unlabelled 1 image in both: 2007_000004 -> a known fault" in output


@pytest.mark.usefixtures("without_time")
def test_shared_images_are_found_in_lists_alone(examine, voc_root: Path) -> None:
    share_with_unlabeled(voc_root)
    shutil.rmtree(voc_root / "train_aug")
    status, output = examine()
    assert status == 1
    assert "problem labelled / unlabelled 1 image in both: 2007_000004" in output
    assert "labelled / validation" not in output, "not to be judged without the files: other folder, other images"


@pytest.mark.usefixtures("without_time")
def test_full_supervision_is_no_problem(examine, voc_root: Path) -> None:
    names = (voc_root / LABELED).read_text() + "\n" + (voc_root / UNLABELED).read_text()
    (voc_root / UNLABELED).write_text(names)
    status, output = examine()
    assert status == 0
    assert re.search(r"note labelled / unlabelled 5 images in both: .* and 2 more -> all labelled images", output)


@pytest.mark.usefixtures("without_time")
def test_notes_on_copies_and_on_labels_without_a_class(examine, voc_root: Path) -> None:
    images, labels = voc_root / "train_aug/image", voc_root / "train_aug/label"
    shutil.copy(images / "2008_000000.png", images / "2008_000001.png")
    size = read_label(labels / "2007_000000.png", NUM_CLASSES).shape
    write_palette_label(labels / "2007_000000.png", np.full(size, 255, np.uint8))
    status, output = examine()
    assert status == 0
    assert re.search(r"note duplicate images 1 image with copies: \S+2008_000000\.png = \S+2008_000001\.png", output)
    assert re.search(r"note labelled has a class 1 of 5: \S+label/2007_000000\.png", output)


@pytest.mark.usefixtures("without_time")
def test_a_sample_is_decoded_unless_everything_is_asked_for(examine, voc_root: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "SAMPLE", 6)
    output = examine()[1]
    assert "ok unlabelled contents 6 of 7 decode" in output
    assert "at most 6 images of each list decoded, --full takes all" in output
    for path in (voc_root / "train_aug/image").glob("2008_*"):
        path.write_bytes(os.urandom(50))
    assert re.search(r"unlabelled decodes 6 of 6", examine()[1])
    assert re.search(r"unlabelled decodes 7 of 7", examine("--full")[1])


@pytest.mark.usefixtures("without_time")
def test_class_frequencies_are_those_of_the_labels(examine, voc_root: Path) -> None:
    labels = [read_label(path, NUM_CLASSES) for path in sorted((voc_root / "val/label").iterdir())]
    pixels = np.concatenate([label.ravel() for label in labels])
    _, output = examine("--full")
    for name, index in (("aeroplane", 1), ("tvmonitor", 20)):
        share = 100 * (pixels == index).sum() / (pixels != 255).sum()
        images = sum((label == index).any() for label in labels)
        assert re.search(rf"{name} [\d.]+ % \d+ {share:.2f} % {images} ", output), output
    assert re.search(rf"ignored [\d.]+ % \d+ {100 * (pixels == 255).mean():.2f} %", output)


@pytest.mark.usefixtures("without_time")
def test_a_class_that_no_label_shows_is_named(examine, voc_root: Path) -> None:
    for path in (voc_root / "train_aug/label").glob("2007_*"):
        label = read_label(path, NUM_CLASSES).copy()
        label[label == 12] = 255
        write_palette_label(path, label)
        write_image(voc_root / "train_aug/image" / path.name, PALETTE[label])
    assert re.search(r"note labelled classes no label shows [\w, ]*dog", examine()[1])


@pytest.mark.usefixtures("without_time")
def test_unlabelled_images_may_be_a_folder(examine, voc_root: Path) -> None:
    folder = voc_root / "pictures"
    shutil.copytree(voc_root / "train_aug/image", folder, ignore=shutil.ignore_patterns("2007_*"))
    status, output = examine(unsup_source=folder)
    assert status == 0
    assert f"ok unlabelled list 7 images in the folder {folder}" in output


@pytest.mark.usefixtures("without_time")
def test_a_method_without_unlabelled_images_needs_no_list_of_them(examine, voc_root: Path) -> None:
    (voc_root / UNLABELED).unlink()
    status, output = examine(method="supervised")
    assert status == 0
    assert "unlabelled" not in output


def test_wrong_commands_are_refused(examine) -> None:
    with pytest.raises(UserError, match=r"nowhere/config\.py: no such file"):
        doctor.main(["nowhere"])
    with pytest.raises(UserError, match="unknown setting"):
        examine(nonsense=1)


def test_duplicates_are_files_of_the_same_content_and_not_the_same_file(voc_root: Path) -> None:
    images = voc_root / "train_aug/image"
    shutil.copy(images / "2007_000000.png", images / "2007_000001.png")
    (images / "2008_000000.png").unlink()
    (images / "2008_000000.png").symlink_to(images / "2007_000002.png")
    listings = [
        open_listing(title, str(voc_root / source), str(voc_root), "train_aug", labeled=False)
        for title, source in (("labelled", LABELED), ("unlabelled", UNLABELED))
    ]
    (group,) = duplicates(listings)
    assert sorted(path.name for _, path in group) == ["2007_000000.png", "2007_000001.png"]


@pytest.mark.parametrize("parallel, seconds", [(True, 3), (False, 5)])
def test_training_time_is_that_of_the_slower_part_or_of_both(parallel: bool, seconds: float) -> None:
    assert Estimate(step=2, loading=3, iterations=10, parallel=parallel).seconds == pytest.approx(10 * seconds)


def test_a_device_that_waits_and_one_that_is_too_small_are_told(make_settings, monkeypatch) -> None:
    C = make_settings()
    monkeypatch.setattr(resources, "estimate", lambda *_: Estimate(1, 2, 3600, parallel=True))
    found = resources.check_time(C, torch.device("cpu"))[1]
    assert (found.level.value, "about 2.0 h on cpu" in found.text) == ("note", True)
    assert "raise C.num_workers" in found.advice

    def overflow(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resources, "estimate", overflow)
    found = resources.check_time(C, torch.device("cpu"))[1]
    assert found.level.value == "problem"
    assert "raise C.accumulate" in found.text
