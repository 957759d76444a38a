"""Make partitions: nested, disjoint, complete, with every class, and without replacing existing lists."""

from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.splits import read_lines
from furnace.tools.make_splits import build_parser, main
from furnace.tools.prepare_city import main as prepare_city
from furnace.utils.errors import UserError
from tests.official_archives import (
    city_image_members,
    city_label_members,
    png,
    voc_members,
    write_folder,
    write_zip,
)
from tests.tiny_data import write_image, write_palette_label

REPOSITORY = Path(__file__).parents[2]
COUNT, CLASSES = 48, 21
ROOT = "DATA/pascal_voc"


@pytest.fixture
def volna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 images with background and two further classes each; the pairs of classes take turns."""
    root = tmp_path / ROOT
    for i in range(COUNT):
        label = np.zeros((8, 10), dtype=np.uint8)
        label[:4, :5], label[4:, 5:], label[7, 9] = i % (CLASSES - 1) + 1, (i + 5) % (CLASSES - 1) + 1, 255
        write_palette_label(root / "train_aug" / "label" / f"2008_{i:06d}.png", label)
        write_image(root / "train_aug" / "image" / f"2008_{i:06d}.jpg", np.zeros((8, 10, 3), dtype=np.uint8))
    (root / "train_aug.txt").write_text("\n".join(f"2008_{i:06d}" for i in reversed(range(COUNT))))
    monkeypatch.setenv("volna", str(tmp_path))
    return tmp_path


def make(*arguments: str) -> None:
    main([str(REPOSITORY / "exp_voc"), *arguments])


def read(path: Path) -> list[str]:
    return [line for _, line in read_lines(path)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lists_are_nested_disjoint_and_complete_where_config_looks_for_them(volna):
    make("--ratios", "2,4,8")
    out = volna / ROOT / "subset_train_aug"
    everything = {f"2008_{i:06d}" for i in range(COUNT)}
    previous = everything
    for ratio in (2, 4, 8):
        labeled = read(out / f"train_aug_labeled_1-{ratio}.txt")
        unlabeled = read(out / f"train_aug_unlabeled_1-{ratio}.txt")
        assert len(labeled) == COUNT // ratio
        assert labeled == sorted(labeled)
        assert len(labeled) + len(unlabeled) == COUNT
        assert set(labeled) | set(unlabeled) == everything
        assert set(labeled) < previous
        previous = set(labeled)
    assert len(contents(out)) == 6


def test_every_class_is_shown(volna, capsys):
    make("--numbers", "12")
    chosen = read(volna / ROOT / "subset_train_aug" / "train_aug_labeled_12.txt")
    shown = {0}
    for name in chosen:
        number = int(name[-6:])
        shown |= {number % (CLASSES - 1) + 1, (number + 5) % (CLASSES - 1) + 1}
    assert shown == set(range(CLASSES))
    row = next(line for line in capsys.readouterr().out.splitlines() if "train_aug_labeled_12.txt" in line)
    assert row.split()[1:5] == ["12", "21", "of", "21"]


def test_the_same_seed_gives_the_same_lists_whatever_the_order_of_the_list(volna, tmp_path):
    lines = read(volna / ROOT / "train_aug.txt")
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_text("\r\n".join(np.random.default_rng(0).permutation(lines)))
    make("--out", str(tmp_path / "a"), "--numbers", "5", "--ratios", "3")
    make("--out", str(tmp_path / "b"), "--numbers", "5", "--ratios", "3", "--list", str(shuffled))
    make("--out", str(tmp_path / "c"), "--numbers", "5", "--ratios", "3", "--seed", "1")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {
        f"train_aug_{kind}_{name}.txt" for kind in ("labeled", "unlabeled") for name in ("5", "1-3")
    }
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_existing_lists_are_kept_without_the_option_overwrite(volna):
    out = volna / ROOT / "subset_train_aug"
    make("--ratios", "4")
    before = contents(out)
    with pytest.raises(UserError, match=r"labeled_1-4.txt: already exists; .*--overwrite"):
        make("--ratios", "2,4", "--seed", "1")
    assert contents(out) == before
    make("--ratios", "2,4", "--seed", "1", "--overwrite")
    assert len(contents(out)) == 4
    assert contents(out)["train_aug_labeled_1-4.txt"] != before["train_aug_labeled_1-4.txt"]


def test_classes_that_no_image_shows_are_named(volna, tmp_path, capsys):
    some = tmp_path / "some.txt"
    some.write_text("2008_000000\n2008_000001\n2008_000002\n")
    make("--list", str(some), "--out", str(tmp_path / "out"), "--numbers", "2")
    assert "note: no image shows boat, bottle, chair, cow, diningtable, dog" in capsys.readouterr().out


def test_lists_of_pairs_keep_their_lines(tmp_path, monkeypatch):
    images = write_zip(tmp_path / "images.zip", city_image_members())
    labels = write_zip(tmp_path / "labels.zip", city_label_members())
    target = tmp_path / "DATA" / "city"
    prepare_city(["--images", str(images), "--labels", str(labels), "--target", str(target)])
    monkeypatch.setenv("volna", str(tmp_path))
    main([str(REPOSITORY / "exp_city"), "--ratios", "3"])
    folder = target / "config_new" / "subset_train"
    both = read(folder / "train_aug_labeled_1-3.txt") + read(folder / "train_aug_unlabeled_1-3.txt")
    assert sorted(both) == read(target / "config_new" / "train.txt")


def test_damaged_and_missing_labels_are_named(volna):
    label = volna / ROOT / "train_aug" / "label" / "2008_000007.png"
    label.write_bytes(png(np.full((8, 10), 30, np.uint8)))
    with pytest.raises(UserError, match=f"{label.name}: label value 30"):
        make("--ratios", "2")
    label.unlink()
    with pytest.raises(UserError, match=f"{label.name}: no such file"):
        make("--ratios", "2")
    assert not (volna / ROOT / "subset_train_aug").exists()


def test_a_duplicate_line_is_refused(volna, tmp_path):
    twice = tmp_path / "twice.txt"
    twice.write_text("2008_000000\n2008_000001\n2008_000000\n")
    with pytest.raises(UserError, match="'2008_000000' occurs twice"):
        make("--list", str(twice), "--ratios", "2")


def test_a_missing_list_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("volna", str(tmp_path))
    write_folder(tmp_path, voc_members())
    with pytest.raises(UserError, match=r"train_aug.txt: no such list; name a list .* --list"):
        make("--ratios", "2")


@pytest.mark.parametrize("text", ["", "2,", "0", "-1", "2.5", "two"])
def test_numbers_are_checked(text):
    with pytest.raises(UserError, match=r"--ratios .*: expected whole numbers from 1"):
        build_parser().parse_args(["exp_voc", f"--ratios={text}"])
    assert build_parser().parse_args(["exp_voc", "--ratios", "2, 16,2"]).ratios == [2, 16]
