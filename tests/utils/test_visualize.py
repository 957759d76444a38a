"""Legends and captions: names of any characters stay inside the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from furnace.utils.visualize import CAPTION_HEIGHT, SWATCH, caption, legend, save_picture

PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
HARD = ["US$5_$10", "_a<b>&%{x}\\", "背景🙂"]


def ink(picture: np.ndarray) -> np.ndarray:
    """Dark grey pixels (H, W) bool, which belong to letters."""
    return (picture.max(axis=2) < 128) & (np.ptp(picture.astype(int), axis=2) < 8)


@pytest.mark.parametrize("name", [*HARD, "طريق", "हिन्दी"])
def test_a_name_of_any_kind_has_letters_beside_its_colour(name):
    picture = legend([name], PALETTE[:1])
    assert picture.shape == (CAPTION_HEIGHT, 480, 3)
    assert ink(picture)[:, SWATCH + 6 :].sum() > 10


def test_a_picture_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    save_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_picture(tmp_path / "a.png", np.ones((4, 4, 3), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_names_without_a_font_still_differ():
    assert not np.array_equal(legend(["背景"], PALETTE[:1]), legend(["汽车"], PALETTE[:1]))


@pytest.mark.parametrize("name", ["n" * 100, "背" * 100])
def test_a_long_name_ends_inside_the_picture(name):
    picture = legend(["sky", name, "road"], PALETTE, width=200)
    assert picture.shape == (3 * CAPTION_HEIGHT, 200, 3)
    assert not ink(picture)[:, -4:].any()
    assert ink(picture)[CAPTION_HEIGHT : 2 * CAPTION_HEIGHT, 150:].any(), "it was cut too early"


def test_colours_stand_in_the_order_of_the_names():
    picture = legend(["a", "b", "c"], PALETTE)
    middles = [np.argwhere((picture == colour).all(axis=2)).mean(axis=0) for colour in PALETTE]
    assert [round(y) for y, _ in middles] == [9, 9, 9] or len({round(y) for y, _ in middles}) == 1
    assert middles[0][1] < middles[1][1] < middles[2][1]


def test_a_caption_stands_above_its_picture():
    picture = np.full((20, 90, 3), 200, dtype=np.uint8)
    found = caption(picture, "branch 1")
    assert found.shape == (20 + CAPTION_HEIGHT, 90, 3)
    assert ink(found[:CAPTION_HEIGHT]).sum() > 10
    np.testing.assert_array_equal(found[CAPTION_HEIGHT:], picture)
