"""The Cityscapes preparation: names, train ids, lists, links, and refused input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from furnace.datasets.protocols import PROTOCOLS
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import list_hash, read_list
from furnace.methods.settings import load_config
from furnace.tools.prepare_city import main
from furnace.utils.errors import UserError
from tests.official_archives import (
    CITY_FRAMES,
    city_image_members,
    city_label_ids,
    city_label_members,
    naive_train_ids,
    png,
    write_folder,
    write_tar,
    write_zip,
)

IMAGES_NAME, LABELS_NAME = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
VAL_FRAME = "frankfurt_000000_000294"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_zip(tmp_path / IMAGES_NAME, city_image_members())


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_zip(tmp_path / LABELS_NAME, city_label_members())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkout" / "DATA" / "city"


def prepare(images: Path, labels: Path, target: Path, *arguments: str) -> None:
    main(["--images", str(images), "--labels", str(labels), "--target", str(target), *arguments])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def expected_files() -> set[str]:
    labeled = [(split, frame) for split in ("train", "val") for frame in CITY_FRAMES[split]]
    return {
        *(f"images/{split}/{frame}.png" for split, frames in CITY_FRAMES.items() for frame in frames),
        *(f"segmentation/{split}/{frame}_gtFine.png" for split, frame in labeled),
        *(f"config_new/{split}.txt" for split in CITY_FRAMES),
    }


def test_layout_and_lists(images, labels, target):
    prepare(images, labels, target)
    assert files(target) == expected_files()
    assert (target / "config_new/val.txt").read_text() == (
        "/images/val/frankfurt_000000_000294.png\t/segmentation/val/frankfurt_000000_000294_gtFine.png\n"
        "/images/val/munster_000000_000019.png\t/segmentation/val/munster_000000_000019_gtFine.png\n"
    )
    assert (target / "config_new/test.txt").read_text() == "/images/test/berlin_000000_000019.png\n"
    assert len((target / "config_new/train.txt").read_text().splitlines()) == 3


def test_images_are_copied_unchanged_and_labels_are_train_ids(images, labels, target):
    prepare(images, labels, target)
    members = city_image_members()
    for split, frames in CITY_FRAMES.items():
        for frame in frames:
            original = members[f"leftImg8bit/{split}/{frame.split('_')[0]}/{frame}_leftImg8bit.png"]
            assert (target / f"images/{split}/{frame}.png").read_bytes() == original
            if split != "test":
                picture = Image.open(target / f"segmentation/{split}/{frame}_gtFine.png")
                assert picture.mode == "L"
                np.testing.assert_array_equal(np.asarray(picture), naive_train_ids(city_label_ids(frame)))


def test_exp_city_reads_the_prepared_data(images, labels, target):
    prepare(images, labels, target)
    C = load_config(Path(__file__).parents[2] / "exp_city", {"volna": str(target.parents[1])})
    samples = read_list(C.eval_source, C.dataset_path, C.eval_folder)
    samples += read_list(f"{C.dataset_path}/config_new/train.txt", C.dataset_path, C.train_folder)
    assert [build_reader(C).pair(sample)[1].shape for sample in samples] == [(12, 16)] * 5
    assert len(read_list(f"{C.dataset_path}/config_new/test.txt", C.dataset_path, labeled=False)) == 1


@pytest.mark.parametrize("form", ["parent", "inner", "tar"])
def test_every_form_of_the_sources_gives_the_same(form, images, labels, target, tmp_path):
    prepare(images, labels, target)
    other, extracted = tmp_path / "other", tmp_path / "extracted"
    write_folder(extracted, city_image_members() | city_label_members())
    if form == "parent":
        prepare(extracted, extracted, other)
    elif form == "inner":
        prepare(extracted / "leftImg8bit", extracted / "gtFine", other)
    else:
        image_tar = write_tar(tmp_path / "images.tar", city_image_members())
        prepare(image_tar, write_tar(tmp_path / "labels.tgz", city_label_members()), other)
    assert files(other) == files(target)
    for name in files(target):
        assert (other / name).read_bytes() == (target / name).read_bytes()


def test_without_test_images_there_is_no_test_list(labels, target, tmp_path):
    members = {name: content for name, content in city_image_members().items() if "/test/" not in name}
    prepare(write_zip(tmp_path / IMAGES_NAME, members), labels, target)
    assert files(target) == {name for name in expected_files() if "test" not in name}


def test_exchanged_or_incomplete_archives_are_refused(images, labels, target, tmp_path):
    with pytest.raises(UserError, match=r"is it leftImg8bit_trainvaltest.zip"):
        prepare(labels, labels, target)
    with pytest.raises(UserError, match=r"is it gtFine_trainvaltest.zip"):
        prepare(images, images, target)
    members = city_image_members()
    del members[f"leftImg8bit/val/frankfurt/{VAL_FRAME}_leftImg8bit.png"]
    with pytest.raises(UserError, match=f"lacks the images of 1 labels of val, such as {VAL_FRAME}"):
        prepare(write_zip(tmp_path / "fewer.zip", members), labels, target)
    members = city_label_members()
    del members[f"gtFine/val/frankfurt/{VAL_FRAME}_gtFine_labelIds.png"]
    with pytest.raises(UserError, match=f"lacks 1 of the 2 files .*{VAL_FRAME}"):
        prepare(images, write_zip(tmp_path / "fewer.zip", members), target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "can't be used"),
        (png(np.zeros((12, 16, 3), np.uint8)), "a RGB image"),
        (png(np.zeros((12, 16), np.uint8))[:-30], "can't be used"),
    ],
)
def test_damaged_labels_are_named(content, reason, images, target, tmp_path):
    name = f"gtFine/val/frankfurt/{VAL_FRAME}_gtFine_labelIds.png"
    labels = write_zip(tmp_path / LABELS_NAME, city_label_members() | {name: content})
    with pytest.raises(UserError, match=f"{name}.*{reason}"):
        prepare(images, labels, target)


def test_a_half_extracted_image_is_named(target, tmp_path):
    extracted = write_folder(tmp_path / "extracted", city_image_members() | city_label_members())
    image = extracted / f"leftImg8bit/val/frankfurt/{VAL_FRAME}_leftImg8bit.png"
    image.write_bytes(image.read_bytes()[:-8])
    with pytest.raises(UserError, match=f"{image.name} can't be used .*truncated"):
        prepare(extracted, extracted, target, "--link")
    assert not (target / f"images/val/{VAL_FRAME}.png").exists()


def test_images_are_linked_and_labels_converted(target, tmp_path):
    extracted = write_folder(tmp_path / "extracted", city_image_members() | city_label_members())
    prepare(extracted, extracted, target, "--link")
    image = extracted / f"leftImg8bit/val/frankfurt/{VAL_FRAME}_leftImg8bit.png"
    assert (target / f"images/val/{VAL_FRAME}.png").samefile(image)
    label = np.asarray(Image.open(target / f"segmentation/val/{VAL_FRAME}_gtFine.png"))
    np.testing.assert_array_equal(label, naive_train_ids(city_label_ids(VAL_FRAME)))
    assert (extracted / f"gtFine/val/frankfurt/{VAL_FRAME}_gtFine_labelIds.png").read_bytes() == png(
        city_label_ids(VAL_FRAME)
    )


def test_partitions_are_installed_and_recognised(images, labels, target, tmp_path, capsys, monkeypatch):
    prepare(images, labels, target)
    lines = (target / "config_new/train.txt").read_text().splitlines()
    val = (target / "config_new/val.txt").read_text().splitlines()
    folder = tmp_path / "lists"
    (folder / "subset_train").mkdir(parents=True)
    (folder / "subset_train/train_aug_labeled_1-2.txt").write_text("\n".join(lines[:1]))
    (folder / "subset_train/train_aug_unlabeled_1-2.txt").write_text("\n".join(lines[1:]))
    (folder / "val.txt").write_text("\n".join(reversed(val)))
    known = list_hash(folder / "subset_train/train_aug_unlabeled_1-2.txt")
    monkeypatch.setitem(PROTOCOLS, known, "Cityscapes, two of three")
    capsys.readouterr()
    main(["--target", str(target), "--splits-from", str(folder)])
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert "no published partition" in rows["config_new/subset_train/train_aug_labeled_1-2.txt"]
    assert "Cityscapes, two of three" in rows["config_new/subset_train/train_aug_unlabeled_1-2.txt"]
    assert (target / "config_new/subset_train/train_aug_unlabeled_1-2.txt").read_text().splitlines() == lines[1:]
    assert (target / "config_new/val.txt").read_text().splitlines() == val
    (target / "segmentation/train" / "ulm_000000_000019_gtFine.png").unlink()
    with pytest.raises(UserError, match=r"1 files of the list .*segmentation/train/ulm_000000_000019_gtFine.png"):
        main(["--target", str(target), "--splits-from", str(folder)])


@pytest.mark.parametrize("arguments", [[], ["--images", "a.zip"], ["--labels", "b.zip"]])
def test_missing_arguments_are_named(arguments):
    with pytest.raises(UserError, match="--images and --labels"):
        main(arguments)
