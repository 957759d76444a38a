"""Inspection of lists and files before a run: copies, absent classes, and the amount of data that it reads."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from furnace.datasets import inspection
from furnace.datasets.inspection import (
    COMPARED_BYTES,
    Listing,
    absent_classes,
    duplicates,
    inspect_all,
    open_listing,
    padding_note,
)
from furnace.datasets.reading import Files
from furnace.datasets.splits import Sample
from furnace.datasets.views import MirrorScaleCrop, Pixels
from furnace.utils.errors import UserError
from tests.tiny_data import write_image, write_palette_label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    return tmp_path / "d"


def copies(folder: Path) -> list[set[str]]:
    found = duplicates([open_listing("unlabelled", str(folder), str(folder), "", labeled=False)])
    return [{path.name for _, path in group} for group in found]


def test_files_with_different_beginnings_are_not_read_to_their_ends(folder: Path, monkeypatch):
    for i in range(40):
        (folder / f"{i}.bmp").write_bytes(bytes([i]) * 10**6)
    read, whole = [], inspection._digest
    monkeypatch.setattr(inspection, "_digest", lambda path, length: read.append(length) or whole(path, length))
    assert copies(folder) == []
    assert read == [COMPARED_BYTES] * 40


def test_files_with_the_same_beginning_are_compared_to_their_ends(folder: Path):
    begin = bytes(range(256)) * (COMPARED_BYTES // 256)
    for name, end in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"22")):
        (folder / f"{name}.png").write_bytes(begin + end)
    assert copies(folder) == [{"a.png", "c.png"}]


def test_a_file_that_can_not_be_read_is_no_copy(folder: Path, monkeypatch):
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"1")
    whole = Path.open

    def opened(path: Path, *args, **options):
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert copies(folder) == [{"a.png", "c.png"}]


@pytest.mark.parametrize("shown, absent", [((0, 1, 2), []), ((0, 2, 255), [1]), ((255,), [0, 1, 2])])
def test_classes_that_no_label_shows(tmp_path: Path, shown, absent):
    labels = [write_palette_label(tmp_path / f"{v}.png", np.full((4, 4), v, np.uint8)) for v in shown]
    samples = [Sample(label.stem, tmp_path / "x.png", label) for label in labels]
    damaged = Sample("bad", tmp_path / "x.png", tmp_path / "nowhere.png")
    assert absent_classes(samples, Files(3)) == absent
    assert absent_classes([damaged, *samples], Files(3), skip_unreadable=True) == absent
    with pytest.raises(UserError, match=r"nowhere\.png: no such file"):
        absent_classes([damaged, *samples], Files(3))


def test_labels_are_read_until_all_classes_have_been_seen(tmp_path: Path, monkeypatch):
    label = write_palette_label(tmp_path / "l.png", np.arange(4, dtype=np.uint8).reshape(2, 2))
    read, real = [], Files.label
    monkeypatch.setattr(Files, "label", lambda *args: read.append(1) or real(*args))
    assert absent_classes([Sample("x", tmp_path / "x.png", label)] * 1000, Files(4)) == []
    assert len(read) < 100


def test_a_sample_covers_the_whole_list(folder: Path):
    paths = [write_image(folder / f"{i:02d}.png", np.full((4, 4, 3), i, np.uint8)) for i in range(40)]
    listing = Listing("unlabelled", "", "", False, samples=[Sample(path.stem, path, None) for path in paths])
    chosen = [int(found.sample.name) for found in inspect_all(listing, Files(3), 8)]
    assert len(chosen) == 8 and chosen == sorted(chosen)
    assert max(chosen) >= 20, "the second half of the list is never looked at"
    assert chosen == [int(found.sample.name) for found in inspect_all(listing, Files(3), 8)]


@given(
    st.tuples(st.integers(8, 90), st.integers(8, 90)),
    st.tuples(st.integers(16, 64), st.integers(16, 64)),
    st.sampled_from([0.5, 1, 1.25, 2]),
)
def test_images_that_leave_most_of_a_crop_empty_are_noted(tmp_path_factory, size, crop, scale):
    path = write_image(tmp_path_factory.getbasetemp() / "sized.png", np.zeros((*size, 3), dtype=np.uint8))
    view = MirrorScaleCrop(crop, [scale], (0, 0, 0))
    shares = [
        view(Pixels(valid=np.ones(turned, np.uint8)), np.random.default_rng(0)).valid.mean()
        for turned in (size, size[::-1])  # EXIF may turn the image
    ]
    filled = max(shares)
    assume(abs(filled - 0.5) > 0.05)  # scaled sizes are rounded
    note = padding_note([Sample("sized", path, None)], crop, [scale])
    assert bool(note) == (filled < 0.5)
    if note:
        assert f"{crop[0]} x {crop[1]}: images of {size[0]} x {size[1]} pixels fill" in note
        assert abs(float(re.search(r"fill (\d+)%", note)[1]) / 100 - filled) < 0.06


def test_the_size_of_images_that_can_not_be_read_is_unknown(tmp_path: Path):
    (tmp_path / "damaged.png").write_bytes(b"damaged")
    samples = [Sample(name, tmp_path / name, None) for name in ("damaged.png", "missing.png")]
    assert padding_note(samples, (512, 512), [1]) == padding_note([], (512, 512), [1]) == ""
    whole = write_image(tmp_path / "whole.png", np.zeros((40, 50, 3), dtype=np.uint8))
    note = padding_note([*samples, Sample("whole", whole, None)], (512, 512), [0.5, 2, 1])
    assert "images of 40 x 50 pixels fill 1% of it at scale 1, the rest is padding" in note
