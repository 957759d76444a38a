"""Users' folders and lists: which files count as data, their names, and the files that lists refer to."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.folders import find_files
from furnace.datasets.pairing import pair
from furnace.datasets.splits import IMAGE_SUFFIXES, read_list
from furnace.inference.inputs import find_inputs
from furnace.utils import terminal
from furnace.utils.errors import UserError
from tests.tiny_data import write_image

GREY = np.full((40, 40, 3), 90, np.uint8)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, IMAGE_SUFFIXES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.JPG", "a.png", "deep/c.jfif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
    return folder


def test_hidden_and_system_files_are_ignored(folder: Path):
    before = names(folder)
    assert before == ["a.png", "b.JPG", "deep/c.jfif"]
    for name in ("._a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png/b.jpg", "__MACOSX/a.png", "deep/.hidden/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"litter")
    assert names(folder) == before
    assert [entry.name for entry in find_inputs([str(folder)], folder / "out")] == ["a", "b", "deep/c"]


def test_ignored_files_are_reported_once_with_counts_per_suffix(folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_noted", set())
    for name in ("x.txt", "deep/y.TXT", "z.heic", "README", "Thumbs.db"):
        (folder / name).write_bytes(b"")
    names(folder)
    names(folder)
    assert capsys.readouterr().err == f"note: {folder}: left out 1 .heic, 2 .txt, 1 without a suffix\n"


def test_links_are_followed_once_each(folder: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("d.png", "content-of-e"):
        (outside / name).write_bytes(b"image")
    (folder / "linked").symlink_to(outside)
    (folder / "again").symlink_to(outside)
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "0.png").symlink_to(folder / "a.png")  # the same file again
    (folder / "e.png").symlink_to(outside / "content-of-e")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(folder) == ["a.png", "again/d.png", "b.JPG", "deep/c.jfif", "e.png"]


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\tb.png", b"a\nb.png", b"a\rb.png", b" a.png", b"deep\n/a.png"])
def test_names_that_a_list_cannot_contain_are_refused(folder: Path, name: bytes):
    path = os.path.join(os.fsencode(folder), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT))
    for read in (names, lambda folder: find_inputs([str(folder)], folder / "out")):
        with pytest.raises(UserError, match="rename the file") as caught:
            read(folder)
        str(caught.value).encode()


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85"])
def test_other_characters_do_not_split_a_line(tmp_path: Path, odd: str):
    image = write_image(tmp_path / f"a{odd}b.png", GREY)
    (tmp_path / "list.txt").write_text(f"{image.name}\r\n", encoding="utf-8", newline="")
    assert [sample.image for sample in read_list(tmp_path / "list.txt", tmp_path, labeled=False)] == [image]


@pytest.mark.parametrize("on_disk, in_list", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_composed_and_decomposed_unicode_are_one_name(tmp_path: Path, on_disk: str, in_list: str):
    image = write_image(tmp_path / "train" / "image" / f"{on_disk}.png", GREY)
    label = write_image(tmp_path / "train" / "label" / f"{on_disk}.png", GREY[..., 0])
    for line in (in_list, f"train/image/{in_list}.png\ttrain/label/{in_list}.png"):
        (tmp_path / "list.txt").write_text(line, encoding="utf-8")
        (sample,) = read_list(tmp_path / "list.txt", tmp_path, "train")
        assert (sample.image, sample.label) == (image, label)
    for number in range(3):
        write_image(tmp_path / "photos" / f"{on_disk}{number}.png", GREY)
        write_image(tmp_path / "masks" / f"{in_list}{number}.png", GREY[..., 0])
    labeled, _ = pair(tmp_path / "photos", tmp_path / "masks")
    assert len(labeled) == 3


def test_absolute_paths_in_every_kind_of_list(tmp_path: Path):
    image, label = write_image(tmp_path / "x" / "a.png", GREY), write_image(tmp_path / "y" / "a.png", GREY[..., 0])
    root = tmp_path / "root"
    below = write_image(root / "x" / "b.png", GREY)
    (tmp_path / "pairs.txt").write_text(f"{image}\t{label}\n/x/b.png\t{label}\n")
    (tmp_path / "images.txt").write_text(f"{image}\n/x/b.png\n")
    pairs = read_list(tmp_path / "pairs.txt", root)
    assert [(sample.image, sample.label) for sample in pairs] == [(image, label), (below, label)]
    assert [sample.image for sample in read_list(tmp_path / "images.txt", root, labeled=False)] == [image, below]


def test_images_of_one_name_in_different_folders_have_different_names(tmp_path: Path):
    for place in "ab":
        write_image(tmp_path / place / "0001.png", GREY)
    (tmp_path / "list.txt").write_text("a/0001.png\nb/0001.png\n")
    assert [sample.name for sample in read_list(tmp_path / "list.txt", tmp_path, labeled=False)] == ["a/0001", "b/0001"]


def test_a_line_of_another_kind_is_named_with_its_number(tmp_path: Path):
    (tmp_path / "list.txt").write_text("a.png\nb.svg\nc.png\n")
    with pytest.raises(UserError, match=r"list\.txt:2: 'b\.svg' is read as an image id; .*no such folder"):
        read_list(tmp_path / "list.txt", tmp_path, labeled=False)


def test_an_id_with_two_images_is_refused(tmp_path: Path):
    for name in ("x.jpg", "x.png", "y.jpg"):
        write_image(tmp_path / "train" / "image" / name, GREY)
    (tmp_path / "list.txt").write_text("y\nx\n")
    with pytest.raises(UserError, match=r"list\.txt:2: .*x\.jpg and .*x\.png: two images with one id"):
        read_list(tmp_path / "list.txt", tmp_path, "train")
