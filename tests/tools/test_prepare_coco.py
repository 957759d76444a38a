"""The COCO preparation and exp_coco: masks against hand-made ones, sources in every form, and refused input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from furnace.checks import checkup
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import read_list
from furnace.methods.settings import load_config
from furnace.tools import doctor
from furnace.tools.prepare_coco import main
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY
from tests.official_archives import (
    COCO_IDS,
    coco_archives,
    coco_instances,
    coco_mask,
    write_folder,
    write_zip,
)

EXPERIMENT = REPOSITORY / "exp_coco"
TRAIN_JSON = "annotations/instances_train2017.json"
ANNOTATIONS = "annotations_trainval2017.zip"


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name, members in coco_archives().items():
        write_zip(folder / name, members)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "DATA" / "coco"


def line(split: str, image_id: int) -> str:
    return f"{split}2017/{image_id:012d}.jpg masks/{image_id:012d}.png"


def write_lists(folder: Path) -> Path:
    """Write a labelled list in the folders of UniMatch, and the validation list."""
    for name, lines in {"1_2/labeled": [line("train", i) for i in (9, 25, 30)], "val": [line("val", 139)]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("form", ["archives", "their folder", "extracted", "each extracted"])
def test_images_masks_and_lists(form, downloads, target, tmp_path):
    sources = sorted(downloads.iterdir())
    if form == "their folder":
        sources = [downloads]
    elif "extracted" in form:
        extracted = tmp_path / "extracted"
        for members in coco_archives().values():
            write_folder(extracted, members)
        sources = [extracted] if form == "extracted" else sorted(extracted.iterdir())
    main([*map(str, sources), "--target", str(target)])
    archives = coco_archives()
    for split, ids in COCO_IDS.items():
        assert (target / f"{split}.txt").read_text().splitlines() == [line(split, i) for i in ids]
        for i in ids:
            name = f"{split}2017/{i:012d}.jpg"
            assert (target / name).read_bytes() == archives[f"{split}2017.zip"][name]
            picture = Image.open(target / f"masks/{i:012d}.png")
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), coco_mask(i, split))
    assert len(list((target / "masks").iterdir())) == 8


def test_exp_coco_and_the_doctor_read_the_prepared_data(downloads, target, tmp_path, capsys, monkeypatch):
    lists = write_lists(tmp_path / "splits")
    (lists / "val.txt").unlink()
    main([str(downloads), "--target", str(target), "--splits-from", str(lists)])
    C = load_config(EXPERIMENT, {"volna": str(tmp_path), "labeled_ratio": "2"})
    for split, source in (("train", C.train_source), ("val", C.eval_source)):
        for sample in read_list(source, C.dataset_path):
            np.testing.assert_array_equal(build_reader(C).pair(sample)[1], coco_mask(int(sample.name), split))
    assert Path(C.unsup_source).read_text().splitlines() == [line("train", i) for i in (34, 36, 42)]
    monkeypatch.setattr(checkup, "check_time", lambda C, device: [])
    overrides = {"volna": tmp_path, "labeled_ratio": 2, "pretrained_model": None, "allow_absent_classes": True}
    capsys.readouterr()
    status = doctor.main([str(EXPERIMENT), "-d", "cpu", *(f"-o{name}={value}" for name, value in overrides.items())])
    output = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert status == 0, output
    assert "ok evaluation contents all can be decoded; sizes and values of labels are correct" in output
    assert "ok labelled / unlabelled no image in both" in output


def test_an_interrupted_run_continues_and_images_are_linked(downloads, target, tmp_path, capsys):
    for members in coco_archives().values():
        write_folder(tmp_path / "extracted", members)
    words = [str(tmp_path / "extracted"), "--target", str(target), "--link"]
    main(words)
    (target / "masks/000000000025.png").write_bytes(b"half")
    capsys.readouterr()
    main(words)
    assert "15 files kept, 1 written" in re.sub(r"\s+", " ", capsys.readouterr().out)
    image = "val2017/000000000139.jpg"
    assert (target / image).samefile(tmp_path / "extracted" / image)


@pytest.mark.parametrize("missing", coco_archives())
def test_a_missing_archive_is_named(missing, downloads, target):
    (downloads / missing).unlink()
    with pytest.raises(UserError, match=f"name {missing}, too"):
        main([str(downloads), "--target", str(target)])
    with pytest.raises(UserError, match="nothing to do: name the archives"):
        main(["--target", str(target)])


def test_incomplete_images_are_counted(downloads, target):
    members = coco_archives()["train2017.zip"]
    del members["train2017/000000000042.jpg"]
    write_zip(downloads / "train2017.zip", members)
    with pytest.raises(UserError, match=r"train2017.zip: lacks 1 of the 6 files .*000000000042"):
        main([str(downloads), "--target", str(target)])


def change(**changes):
    return lambda found: found["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (change(category_id=12), "000000000025 can't be used .an object of a category that the file does not list"),
        (
            change(segmentation={"size": [5, 5], "counts": [25]}),
            r"a region of \[5, 5\] pixels in an image of \[12, 16\]",
        ),
        (change(segmentation=[["a"] * 6]), "000000000025 can't be used"),
        (change(image_id=7), r"not COCO's instances, or damaged \(KeyError: 7\)"),
        (lambda found: found.pop("images"), r"not COCO's instances, or damaged \(KeyError: 'images'\)"),
        (lambda found: found["categories"].pop(), r"79 categories, not the 80 of COCO \(person\)"),
        (lambda found: found["categories"][0].update(name="leaf"), r"80 categories, not the 80 of COCO \(leaf\)"),
    ],
)
def test_other_annotations_are_refused(harm, complaint, downloads, target):
    found = coco_instances("train")
    harm(found)
    members = coco_archives()[ANNOTATIONS] | {TRAIN_JSON: json.dumps(found).encode()}
    write_zip(downloads / ANNOTATIONS, members)
    with pytest.raises(UserError, match=rf"{ANNOTATIONS}/{TRAIN_JSON}: .*{complaint}"):
        main([str(downloads), "--target", str(target)])


def test_annotations_that_are_not_json_are_refused(downloads, target):
    write_zip(downloads / ANNOTATIONS, coco_archives()[ANNOTATIONS] | {TRAIN_JSON: b"{"})
    with pytest.raises(UserError, match=r"not COCO's instances, or damaged \(JSONDecodeError"):
        main([str(downloads), "--target", str(target)])
