"""The doctor: a sound experiment passes; every kind of fault is named, and problems change the exit status."""

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
from tests.tiny_data import NUM_CLASSES, write_image, write_palette_label

LABELED = "subset_train_aug/train_aug_labeled_1-8.txt"
UNLABELED = "subset_train_aug/train_aug_unlabeled_1-8.txt"


@pytest.fixture
def examine(tmp_path: Path, voc_root: Path, capsys: pytest.CaptureFixture, monkeypatch) -> Callable:
    """`examine("--full", key=value)`: the exit status, and the output joined to one line."""
    settings = {**TINY_RUN, "volna": tmp_path, "head_channels": 8}

    def run(*arguments: str, timed: bool = False, **changes) -> tuple[int, str]:
        if not timed:
            monkeypatch.setattr(checkup, "check_time", lambda C, device: [])
        overrides = [f"-o{name}={value}" for name, value in {**settings, **changes}.items()]
        status = doctor.main([str(REPOSITORY / "exp_voc"), "-d", "cpu", *overrides, *arguments])
        return status, re.sub(r"\s+", " ", capsys.readouterr().out)

    return run


def test_a_sound_experiment_passes(examine, voc_root: Path) -> None:
    status, output = examine("--full", timed=True)
    assert status == 0
    assert f"ok labelled list 5 images; no published protocol; sha256 {list_hash(voc_root / LABELED)[:12]}..." in output
    assert "ok unlabelled list 7 images" in output
    assert "ok evaluation list 3 images" in output
    for pair in ("labelled / unlabelled", "labelled / evaluation", "unlabelled / evaluation"):
        assert f"ok {pair} no image in both" in output
    assert "ok labelled files all images and labels exist" in output
    assert "ok unlabelled contents all can be decoded" in output
    assert "ok duplicate images none" in output
    assert "note pretrained weights random" in output
    assert "ok recipe 2 epochs of 3 iterations, 6 in all" in output
    assert re.search(r"ok training time about [\d.]+ m?s on cpu \(\d+ threads?\), without evaluation", output)
    assert "problems: 0" in output


def remove(name: str) -> Callable:
    return lambda root: (root / name).unlink()


def damage(name: str) -> Callable:
    return lambda root: (root / name).write_bytes(b"damaged")


def add(name: str, text: str) -> Callable:
    return lambda root: (root / name).write_text(f"{(root / name).read_text()}\n{text}\n")


def relabel(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda root: write_palette_label(root / name, change(read_label(root / name, NUM_CLASSES)))


def link_to_validation(root: Path) -> None:
    path = root / "train_aug/image/2007_000000.png"
    path.unlink()
    os.link(root / "val/image/2009_000000.png", path)
    shutil.copy(root / "val/label/2009_000000.png", root / "train_aug/label/2007_000000.png")


def copy_to_validation(root: Path) -> None:
    for kind in ("image", "label"):
        shutil.copy(root / f"train_aug/{kind}/2008_000000.png", root / f"val/{kind}/2009_000000.png")


def copy_within_validation(root: Path) -> None:
    for kind in ("image", "label"):
        shutil.copy(root / f"val/{kind}/2009_000000.png", root / f"val/{kind}/2009_000001.png")


def copy_unlabeled(root: Path) -> None:
    shutil.copy(root / "train_aug/image/2008_000000.png", root / "train_aug/image/2008_000001.png")


def hide_dogs(root: Path) -> None:
    for path in (root / "train_aug/label").glob("2007_*"):
        relabel(path.name, lambda label: np.where(label == 12, np.uint8(255), label))(path.parent)


share = add(UNLABELED, "2007_000004")
FAULTS = [
    (remove("train_aug/image/2007_000001.png"), r"problem labelled list \S+:2: no image \S+2007_000001\.\*"),
    (
        remove("val/label/2009_000002.png"),
        r"problem evaluation files 1 file missing: \S+val/label/2009_000002\.png",
    ),
    (
        damage("train_aug/image/2008_000003.png"),
        r"problem unlabelled decodes 1 of 7: \S+2008_000003\.png: can't be decoded.* -> copy these files",
    ),
    (
        damage("train_aug/label/2007_000003.png"),
        r"problem labelled decodes 1 of 5: \S+label/2007_000003\.png: can't be decoded",
    ),
    (
        relabel("val/label/2009_000001.png", lambda label: np.full_like(label, NUM_CLASSES)),
        r"problem evaluation values 1 of 3: \S+2009_000001\.png: label value 21 is neither a class",
    ),
    (
        lambda root: write_image(root / "train_aug/image/2007_000002.png", np.zeros((7, 9, 3), np.uint8)),
        r"problem labelled same size 1 of 5: \S+label/2007_000002\.png: \d+x\d+ pixels, but its image .* 9x7",
    ),
    (share, r"problem labelled / unlabelled 1 image in both: 2007_000004 -> remove them"),
    (
        link_to_validation,
        r"problem labelled / evaluation 1 image in both: 2007_000000 -> .* scores are too high",
    ),
    (
        copy_to_validation,
        r"problem duplicate images 1 image with copies in training and evaluation: "
        r"\S+image/2008_000000\.png = \S+2009_000000\.png",
    ),
    (add(LABELED, "2007_000004"), "problem labelled list 1 repeated lines"),
    (add(LABELED, "a\tb\tc\nnowhere"), r"problem labelled list \S+:6: can't read .* \(and 1 more lines\)"),
    (
        lambda root: add(UNLABELED, (root / LABELED).read_text())(root),
        r"note labelled / unlabelled 5 images in both: .* and 2 more -> all labelled images",
    ),
    (copy_within_validation, r"note duplicate images 1 image with copies: \S+2009_000000\.png = \S+2009_000001\.png"),
    (copy_unlabeled, r"note duplicate images 1 image with copies: \S+2008_000000\.png = \S+2008_000001\.png"),
    (
        relabel("train_aug/label/2007_000000.png", lambda label: np.full_like(label, 255)),
        r"note labelled has a class 1 of 5: \S+label/2007_000000\.png",
    ),
    (hide_dogs, r"problem labelled classes no label shows [\w, ]*dog"),
]


@pytest.mark.parametrize(("harm", "expected"), FAULTS, ids=[expected for _, expected in FAULTS])
def test_a_fault_is_named_and_only_problems_change_the_status(examine, voc_root: Path, harm, expected: str) -> None:
    harm(voc_root)
    status, output = examine("--full")
    assert status == expected.startswith("problem")
    assert re.search(expected, output), output
    assert f"problems: {status}," in output


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train_source=/nowhere.txt", r"problem labelled list /nowhere\.txt: no such list"),
        ("pretrained_model=/nowhere.pth", r"problem pretrained weights C\.pretrained_model = /nowhere\.pth: no such"),
    ],
)
def test_a_faulty_setting_is_named(examine, setting: str, expected: str) -> None:
    status, output = examine("-o", setting)
    assert status == 1
    assert re.search(expected, output), output


def test_a_crop_far_larger_than_the_images_is_a_note(examine) -> None:
    status, output = examine(image_height=512, image_width=512)
    assert status == 0 and "note crop C.image_height x C.image_width = 512 x 512: images of " in output


def test_too_little_room_for_the_cache_is_a_problem(examine, tmp_path: Path, monkeypatch) -> None:
    status, output = examine(cache=tmp_path / "cache")
    assert (status, "ok cache C.cache = " in output) == (0, True)
    monkeypatch.setattr(resources, "free_bytes", lambda folder: 1000)
    status, output = examine(cache=tmp_path / "cache")
    assert status == 1
    assert re.search(r"problem cache .* [\d.]+ KiB still needed, 1000 bytes free in \S+cache -> make room", output)


def test_the_known_fault_of_the_published_few_label_lists_is_a_note(examine, voc_root, monkeypatch) -> None:
    share(voc_root)
    lists = {LABELED: "", UNLABELED: "un"}
    known = {list_hash(voc_root / path): f"VOC few labels 5, {kind}labelled" for path, kind in lists.items()}
    monkeypatch.setattr(protocols, "PROTOCOLS", known)
    status, output = examine()
    assert status == 0
    assert "ok labelled list 5 images; VOC few labels 5, labelled;" in output
    assert "note labelled / unlabelled 1 image in both: 2007_000004 -> a known fault" in output
    monkeypatch.setattr(protocols, "PROTOCOLS", dict.fromkeys(known, "Cityscapes 1/8"))
    status, output = examine()
    assert status == 1 and "problem labelled / unlabelled 1 image in both" in output, "other lists have no such fault"


def test_lists_of_unimatch_over_the_official_folders_are_read_and_named(examine, tmp_path: Path, monkeypatch) -> None:
    root, lists = tmp_path / "VOC2012", {"labeled": ["a1", "a2"], "unlabeled": ["b1", "b2", "b3"], "val": ["c1"]}
    rng = np.random.default_rng(0)
    for stem in [stem for stems in lists.values() for stem in stems]:
        write_image(root / f"JPEGImages/{stem}.jpg", rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        label = rng.integers(0, NUM_CLASSES, (20, 24), dtype=np.uint8)
        write = write_palette_label if stem == "a1" else write_image
        write(root / f"SegmentationClass/{stem}.png", label)
    known = {}
    for name, stems in lists.items():
        lines = [f"JPEGImages/{stem}.jpg SegmentationClass/{stem}.png" for stem in stems]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        known[list_hash(tmp_path / f"{name}.txt")[:24]] = f"UniMatch {name}"
    monkeypatch.setattr(protocols, "UNIMATCH", known)
    sources = {"train_source": "labeled", "unsup_source": "unlabeled", "eval_source": "val"}
    paths = {setting: tmp_path / f"{name}.txt" for setting, name in sources.items()}
    status, output = examine("--full", dataset_path=root, **paths)
    assert status == 0, output
    for title, count, name in (("labelled", "2 images", "labeled"), ("evaluation", "1 image", "val")):
        assert f"ok {title} list {count}; UniMatch {name};" in output
        assert f"ok {title} files all images and labels exist" in output
    assert "ok unlabelled list 3 images; UniMatch unlabeled;" in output


def test_shared_images_are_found_in_lists_alone(examine, voc_root: Path) -> None:
    share(voc_root)
    shutil.rmtree(voc_root / "train_aug")
    status, output = examine()
    assert status == 1
    assert "problem labelled / unlabelled 1 image in both: 2007_000004" in output
    assert "labelled / evaluation" not in output, "not to be judged without the files: other folder, other images"


def test_a_sample_is_decoded_without_the_option_full(examine, voc_root: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "SAMPLE", 6)
    output = examine()[1]
    assert "ok unlabelled contents 6 of 7 can be decoded" in output
    assert "at most 6 images of each list decoded, --full decodes all" in output
    for path in (voc_root / "train_aug/image").glob("2008_*"):
        path.write_bytes(os.urandom(50))
    assert re.search(r"unlabelled decodes 6 of 6", examine()[1])
    assert re.search(r"unlabelled decodes 7 of 7", examine("--full")[1])


def test_class_frequencies_are_those_of_the_labels(examine, voc_root: Path) -> None:
    labels = [read_label(path, NUM_CLASSES) for path in sorted((voc_root / "val/label").iterdir())]
    pixels = np.concatenate([label.ravel() for label in labels])
    _, output = examine("--full")
    for name, index in (("aeroplane", 1), ("tvmonitor", 20)):
        share = 100 * (pixels == index).sum() / (pixels != 255).sum()
        images = sum((label == index).any() for label in labels)
        assert re.search(rf"{name} [\d.]+ % \d+ {share:.2f} % {images} ", output), output
    assert re.search(rf"ignored [\d.]+ % \d+ {100 * (pixels == 255).mean():.2f} %", output)


def test_unlabelled_images_may_be_a_folder(examine, voc_root: Path) -> None:
    folder = voc_root / "pictures"
    shutil.copytree(voc_root / "train_aug/image", folder, ignore=shutil.ignore_patterns("2007_*"))
    status, output = examine(unsup_source=folder)
    assert status == 0
    assert f"ok unlabelled list 7 images in the folder {folder}" in output


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


def test_a_waiting_device_and_too_little_memory_are_reported(make_settings, monkeypatch) -> None:
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
