"""The VOC preparation: layout, labels, continuation after an interruption, and refused input."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from furnace.datasets.protocols import PROTOCOLS
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import list_hash, read_list
from furnace.methods.settings import load_config
from furnace.tools import preparing
from furnace.tools.prepare_voc import main
from furnace.utils import background
from furnace.utils.errors import UserError
from tests.official_archives import (
    OFFICIAL_CLASS,
    SBD_CLASS,
    VOC_AUGMENTED,
    VOC_TRAIN,
    VOC_VAL,
    aug_members,
    label,
    matrix,
    png,
    sbd_label,
    sbd_members,
    voc_members,
    write_folder,
    write_tar,
    write_zip,
)

VOC_NAME, SBD_NAME = "VOCtrainval_11-May-2012.tar", "benchmark.tgz"
PIXEL = (3, 4)  # row and column at which official and SBD labels differ
ONLY_SBD = ["2008_000002", "2009_000005"]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_tar(tmp_path / VOC_NAME, voc_members())


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    return write_tar(tmp_path / SBD_NAME, sbd_members())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkout" / "DATA" / "pascal_voc"


def prepare(voc: Path, sbd: Path, target: Path, *arguments: str) -> None:
    main(["--voc", str(voc), "--sbd", str(sbd), "--target", str(target), *arguments])


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file below a folder."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_layout_and_lists(voc, sbd, target):
    prepare(voc, sbd, target)
    assert names(target) == ["train.txt", "train_aug", "train_aug.txt", "val", "val.txt"]
    assert names(target / "train_aug" / "image") == [f"{i}.jpg" for i in VOC_AUGMENTED]
    assert names(target / "train_aug" / "label") == [f"{i}.png" for i in VOC_AUGMENTED]
    assert names(target / "val" / "image") == [f"{i}.jpg" for i in VOC_VAL]
    assert names(target / "val" / "label") == [f"{i}.png" for i in VOC_VAL]
    for name, ids in {"train_aug": VOC_AUGMENTED, "train": VOC_TRAIN, "val": VOC_VAL}.items():
        assert (target / f"{name}.txt").read_text() == "".join(f"{i}\n" for i in ids)


def test_images_are_copied_unchanged(voc, sbd, target):
    prepare(voc, sbd, target)
    members = voc_members()
    for folder, ids in {"train_aug": VOC_AUGMENTED, "val": VOC_VAL}.items():
        for i in ids:
            expected = members[f"VOCdevkit/VOC2012/JPEGImages/{i}.jpg"]
            assert (target / folder / "image" / f"{i}.jpg").read_bytes() == expected


def test_labels_contain_class_indices_and_official_ones_take_precedence(voc, sbd, target):
    prepare(voc, sbd, target)
    for i in VOC_AUGMENTED:
        picture = Image.open(target / "train_aug" / "label" / f"{i}.png")
        assert picture.mode == "P"
        assert picture.getpalette()[3:6] == [128, 0, 0]
        values = np.asarray(picture)
        assert values[PIXEL] == (OFFICIAL_CLASS if i in VOC_TRAIN else SBD_CLASS)
        np.testing.assert_array_equal(values, label(i, OFFICIAL_CLASS) if i in VOC_TRAIN else sbd_label(i))
    for i in VOC_VAL:
        values = np.asarray(Image.open(target / "val" / "label" / f"{i}.png"))
        np.testing.assert_array_equal(values, label(i, OFFICIAL_CLASS))


def test_grey_labels_are_what_the_published_code_reads(voc, sbd, target):
    """It reads labels as grey values, which in palette images are the brightness of colours."""
    prepare(voc, sbd, target)
    expected = {path: np.asarray(Image.open(path)) for path in target.rglob("label/*.png")}
    for options, mode in ((["--grey"], "L"), ([], "P")):
        prepare(voc, sbd, target, *options)
        for path, values in expected.items():
            assert Image.open(path).mode == mode
            np.testing.assert_array_equal(np.asarray(Image.open(path)), values)
            read = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert np.array_equal(read, values) == (mode == "L")


@pytest.mark.parametrize("voc_form", ["tar", "parent", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("sbd_form", ["tgz", "parent", "benchmark_RELEASE/dataset", "aug folder", "aug", "aug zip"])
def test_every_form_of_the_sources_gives_the_same(voc_form, sbd_form, voc, sbd, target, tmp_path):
    prepare(voc, sbd, target)
    voc_folder = write_folder(tmp_path / "voc", voc_members())
    sbd_folder = write_folder(tmp_path / "sbd", sbd_members())
    aug_folder = write_folder(tmp_path / "aug", aug_members())
    voc_source = {"tar": voc, "parent": voc_folder}.get(voc_form, voc_folder / voc_form)
    sbd_source = {
        "tgz": sbd,
        "parent": sbd_folder,
        "aug folder": aug_folder,
        "aug": aug_folder / "SegmentationClassAug",
        "aug zip": write_zip(tmp_path / "SegmentationClassAug.zip", aug_members()),
    }.get(sbd_form, sbd_folder / sbd_form)
    other = tmp_path / "other"
    prepare(voc_source, sbd_source, other)
    for path in target.rglob("*.*"):
        assert (other / path.relative_to(target)).read_bytes() == path.read_bytes()
    assert len(list(other.rglob("*.*"))) == len(list(target.rglob("*.*")))


def test_nothing_of_val_is_in_the_training_data(voc, sbd, target):
    prepare(voc, sbd, target)
    assert not set(VOC_VAL) & {path.stem for path in (target / "train_aug").rglob("*")}
    assert not set(VOC_VAL) & set((target / "train_aug.txt").read_text().split())


def test_an_image_in_both_official_lists_is_refused(sbd, target, tmp_path):
    members = voc_members()
    members["VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"] += f"{VOC_VAL[0]}\n".encode()
    with pytest.raises(UserError, match=f"both train.txt and val.txt, such as {VOC_VAL[0]}"):
        prepare(write_tar(tmp_path / VOC_NAME, members), sbd, target)
    assert not target.exists()


def test_exp_voc_reads_the_prepared_data(voc, sbd, target):
    prepare(voc, sbd, target)
    C = load_config(Path(__file__).parents[2] / "exp_voc", {"volna": str(target.parents[1])})
    samples = read_list(C.eval_source, C.dataset_path, C.eval_folder)
    samples += read_list(f"{C.dataset_path}/train_aug.txt", C.dataset_path, C.train_folder)
    assert len(samples) == len(VOC_VAL) + len(VOC_AUGMENTED)
    for sample in samples:
        image, values = build_reader(C).pair(sample)
        assert image.shape[:2] == values.shape


def test_a_second_run_keeps_everything(voc, sbd, target, capsys):
    prepare(voc, sbd, target)
    before = state(target)
    capsys.readouterr()
    prepare(voc, sbd, target)
    assert state(target) == before
    assert "14 files kept, 0 written" in capsys.readouterr().out


def test_half_written_and_removed_files_are_written_again(voc, sbd, target, capsys):
    prepare(voc, sbd, target)
    before = state(target)
    halves = [
        target / "train_aug/image/2007_000032.jpg",
        target / "train_aug/label/2008_000002.png",
        target / "val/label/2007_000033.png",
    ]
    for path in halves:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (target / "train_aug/label/2009_000005.png").write_bytes(b"")
    (target / "val/image/2007_000042.jpg").unlink()
    (target / "val.txt").unlink()
    capsys.readouterr()
    prepare(voc, sbd, target)
    after = state(target)
    assert {path: content for path, (_, content) in after.items()} == {p: content for p, (_, content) in before.items()}
    changed = {path for path in after if after[path] != before[path]}
    assert len(changed) == 6
    assert "9 files kept, 5 written" in capsys.readouterr().out


@pytest.mark.parametrize("done", [0, 1, 5, 13])
def test_an_interrupted_run_leaves_whole_files_and_continues(done, voc, sbd, target, tmp_path, monkeypatch):
    complete = tmp_path / "complete"
    prepare(voc, sbd, complete)
    written = []

    def interrupted(path: Path, data: bytes, flush: bool) -> None:
        if len(written) >= done:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data, flush)

    write = preparing.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_atomically", interrupted)
        patch.setattr(background, "thread_count", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            prepare(voc, sbd, target)
    assert len(written) == done
    for path in written:
        assert path.read_bytes() == (complete / path.relative_to(target)).read_bytes()
    assert not list(target.glob("*.txt")), "lists must not name what is not there yet"
    prepare(voc, sbd, target)
    for path in complete.rglob("*.*"):
        assert (target / path.relative_to(complete)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("which", [VOC_NAME, SBD_NAME])
@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.4, 0.6])
def test_a_truncated_archive_is_refused_before_anything_is_written(which, share, voc, sbd, target, tmp_path):
    path = tmp_path / which
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=which):
        prepare(voc, sbd, target)
    assert not target.exists()


def test_the_wrong_archives_are_refused(voc, sbd, target):
    with pytest.raises(UserError, match=r"contains no list train\.txt"):
        prepare(sbd, sbd, target)
    with pytest.raises(UserError, match="neither dataset/cls"):
        prepare(voc, voc, target)
    with pytest.raises(UserError, match="no such file or folder"):
        prepare(voc, sbd.with_name("elsewhere.tgz"), target)
    assert not target.exists()


def test_a_missing_member_is_named(voc, target, tmp_path):
    members = sbd_members()
    del members["benchmark_RELEASE/dataset/cls/2009_000005.mat"]
    with pytest.raises(UserError, match=r"lacks 1 labels of its lists, such as cls/2009_000005.mat"):
        prepare(voc, write_tar(tmp_path / SBD_NAME, members), target)
    members = voc_members()
    del members["VOCdevkit/VOC2012/JPEGImages/2009_000005.jpg"]
    with pytest.raises(UserError, match=r"lacks 1 of the 5 files .*2009_000005"):
        prepare(write_tar(voc, members), write_tar(tmp_path / SBD_NAME, sbd_members()), target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        ("JPEGImages/2007_000032.jpg", b"<html>not found</html>", "identify"),
        (
            "JPEGImages/2007_000032.jpg",
            voc_members()["VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg"][:-40],
            "truncated JPEG",
        ),
        ("SegmentationClass/2007_000032.png", png(np.zeros((12, 16, 3), np.uint8)), "a RGB image"),
        ("SegmentationClass/2007_000032.png", png(np.full((12, 16), 75, np.uint8)), "label value 75"),
        ("ImageSets/Segmentation/val.txt", b"../../2007_000033\n", "not an image id"),
        ("ImageSets/Segmentation/val.txt", b"\xff\xfe", "not text"),
    ],
)
def test_damaged_members_of_voc_are_named(member, content, reason, sbd, target, tmp_path):
    members = voc_members() | {f"VOCdevkit/VOC2012/{member}": content}
    with pytest.raises(UserError, match=f"(?s){member}.*{reason}"):
        prepare(write_tar(tmp_path / VOC_NAME, members), sbd, target)
    assert not list(target.rglob(Path(member).name))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"MATLAB", "can't be used"), (matrix(np.full((12, 16), 21, np.uint8)), "label value 21"), (b"", "can't be used")],
)
def test_damaged_labels_of_sbd_are_named(content, reason, voc, target, tmp_path):
    members = sbd_members() | {"benchmark_RELEASE/dataset/cls/2008_000002.mat": content}
    with pytest.raises(UserError, match=f"2008_000002.mat.*{reason}"):
        prepare(voc, write_tar(tmp_path / SBD_NAME, members), target)
    assert not (target / "train_aug/label/2008_000002.png").exists()


def test_a_dry_run_writes_nothing(voc, sbd, target, tmp_path, capsys):
    before = state(tmp_path)
    prepare(voc, sbd, target, "--dry-run")
    assert state(tmp_path) == before
    assert not target.exists()
    out = capsys.readouterr().out
    assert "0 files kept, 14 would be written" in out
    assert any(line.split()[:3] == ["train_aug/image", "5", "10582"] for line in out.splitlines())


def test_small_archives_pass_with_a_warning_and_a_difference_in_the_summary(voc, sbd, target, capsys):
    prepare(voc, sbd, target)
    out, err = capsys.readouterr()
    assert f"warning: {VOC_NAME} has {voc.stat().st_size} bytes, the published archive has 1999639040" in err
    assert f"warning: {SBD_NAME} has the md5" in err
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert rows["val/label"].split()[1:3] == ["2", "1449"]
    assert "differs" in rows["val/label"]


def test_files_in_no_list_are_reported(voc, sbd, target, capsys):
    prepare(voc, sbd, target)
    (target / "train_aug/image/2007_000033.jpg").write_bytes(b"of val")
    capsys.readouterr()
    prepare(voc, sbd, target)
    assert "contains 1 files that are in no list, such as 2007_000033.jpg" in capsys.readouterr().out


def test_links_are_made_if_the_source_is_a_folder(voc, sbd, target, tmp_path):
    folder = write_folder(tmp_path / "extracted", voc_members())
    prepare(folder, sbd, target, "--link")
    root = folder / "VOCdevkit/VOC2012"
    assert (target / "val/image/2007_000033.jpg").samefile(root / "JPEGImages/2007_000033.jpg")
    assert (target / "train_aug/label/2007_000032.png").samefile(root / "SegmentationClass/2007_000032.png")
    assert np.asarray(Image.open(target / "train_aug/label/2008_000002.png"))[PIXEL] == SBD_CLASS
    assert not list(target.rglob(".*"))
    with pytest.raises(UserError, match="only extracted folders can be linked"):
        prepare(voc, sbd, tmp_path / "other", "--link")


def test_links_are_symbolic_if_the_disk_is_another(sbd, target, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "extracted", voc_members())

    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.chdir(tmp_path)
    prepare(Path("extracted"), sbd, target, "--link")
    made = target / "val/image/2007_000033.jpg"
    assert made.is_symlink()
    assert made.samefile(folder / "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg")


def write_partitions(folder: Path, **lists: list[str]) -> Path:
    (folder / "subset_train_aug").mkdir(parents=True)
    for name, ids in lists.items():
        (folder / "subset_train_aug" / f"{name.replace('1_', '1-')}.txt").write_bytes("\r\n".join(ids).encode())
    return folder


def test_partitions_are_checked_renamed_and_recognised(voc, sbd, target, tmp_path, capsys, monkeypatch):
    folder = write_partitions(
        tmp_path / "lists",
        train_aug_labeled_1_2=VOC_AUGMENTED[:2],
        train_aug_unlabeled_1_2=VOC_AUGMENTED[2:],
        pseudoseg_labeled_1_16=VOC_TRAIN[:1],
        pseudoseg_unlabeled_1_16=VOC_TRAIN,
    )
    known = list_hash(folder / "subset_train_aug/train_aug_labeled_1-2.txt")
    monkeypatch.setitem(PROTOCOLS, known, "VOC augmented, a half of five")
    prepare(voc, sbd, target, "--splits-from", str(folder))
    assert names(target / "subset_train_aug") == [
        "train_aug_labeled_1-2.txt",
        "train_aug_unlabeled_1-2.txt",
        "train_pseudoseg_labeled_1-16.txt",
        "train_pseudoseg_unlabeled_1-16.txt",
    ]
    written = (target / "subset_train_aug/train_aug_unlabeled_1-2.txt").read_bytes()
    assert written == "".join(f"{i}\n" for i in VOC_AUGMENTED[2:]).encode()
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert "VOC augmented, a half of five" in rows["subset_train_aug/train_aug_labeled_1-2.txt"]
    assert "no published partition" in rows["subset_train_aug/train_aug_unlabeled_1-2.txt"]
    assert "train_pseudoseg_labeled_1-16.txt shares 1 with its unlabelled list (2007_000032)" in out


def test_partitions_can_be_added_later_or_tested_by_a_dry_run(voc, sbd, target, tmp_path):
    folder = write_partitions(tmp_path / "lists", train_aug_labeled_1_2=VOC_AUGMENTED[:2])
    only_lists = ["--target", str(target), "--splits-from", str(folder)]
    with pytest.raises(UserError, match=r"4 files of the list are not in the prepared data .*prepare the data first"):
        main(only_lists)
    prepare(voc, sbd, target, "--splits-from", str(folder), "--dry-run")
    assert not target.exists()
    prepare(voc, sbd, target)
    main(only_lists)
    main(only_lists)
    assert names(target / "subset_train_aug") == ["train_aug_labeled_1-2.txt"]


def test_partitions_of_other_images_are_refused_before_anything_is_written(voc, sbd, target, tmp_path):
    folder = write_partitions(tmp_path / "lists", train_aug_labeled_1_2=[VOC_AUGMENTED[0], VOC_VAL[0]])
    with pytest.raises(UserError, match=f"2 files of the list .*{VOC_VAL[0]}"):
        prepare(voc, sbd, target, "--splits-from", str(folder))
    assert not target.exists()
    with pytest.raises(UserError, match="contains no partition"):
        prepare(voc, sbd, target, "--splits-from", str(tmp_path))


def test_other_lists_are_not_overwritten(voc, sbd, target, tmp_path):
    prepare(voc, sbd, target)
    (target / "subset_train_aug").mkdir()
    own = target / "subset_train_aug" / "train_aug_labeled_1-2.txt"
    own.write_text("2007_000032\n")
    folder = write_partitions(tmp_path / "lists", train_aug_labeled_1_2=VOC_AUGMENTED[:2])
    with pytest.raises(UserError, match="lists other images"):
        main(["--target", str(target), "--splits-from", str(folder)])
    assert own.read_text() == "2007_000032\n"


@pytest.mark.parametrize("arguments", [[], ["--voc", "a.tar"], ["--sbd", "a.tgz"], ["--dry-run"]])
def test_missing_arguments_are_named(arguments):
    with pytest.raises(UserError, match="--voc and --sbd"):
        main(arguments)


def test_an_alternative_source_of_labels_gives_no_warning(tmp_path, capsys):
    archive, aug = write_tar(tmp_path / "voc.tar", voc_members()), write_zip(tmp_path / "aug.zip", aug_members())
    main(["--voc", str(archive), "--sbd", str(aug), "--target", str(tmp_path / "out"), "--dry-run"])
    said = capsys.readouterr().err
    assert "voc.tar has" in said and "aug.zip" not in said
