"""Classes that follow from the values in masks, and lines of lists."""

from pathlib import Path

import pytest

from furnace.datasets.splits import Sample
from furnace.tools.own_lists import chosen_classes, line_of
from furnace.utils.errors import UserError

MASK = Path("/mine/masks/a.png")


@pytest.mark.parametrize(
    ("given", "values", "expected"),
    [
        (None, [0, 1], ([], 2)),
        (None, [0, 2, 3], ([], 4)),
        (None, [1, 2], ([], 3)),
        ("sky, road", [0, 1], (["sky", "road"], 2)),
        ("a,b,c,d,e,f,g", [0, 6], (list("abcdefg"), 7)),
    ],
)
def test_classes_are_the_names_or_follow_from_the_highest_value(given, values, expected):
    assert chosen_classes(given, values, MASK) == expected


@pytest.mark.parametrize(
    ("given", "values", "message"),
    [
        (None, [0, 77], r"a\.png: contains 77, and all masks 0, 77 instead of class indices"),
        ("sky,road", [0, 2], r"a\.png: contains 2, but --classes has 2 names, for 0 to 1"),
        (None, [0], r"masks: the masks contain only class 0"),
        ("sky,sky", [0, 1], r"--classes sky,sky: must be different names"),
        ("sky,,road", [0, 1], r"--classes sky,,road: must be different names"),
    ],
)
def test_values_that_are_no_indices_are_named(given, values, message):
    with pytest.raises(UserError, match=message):
        chosen_classes(given, values, MASK)


def test_lines_are_relative_to_the_data_set_s_folder_if_possible():
    assert line_of(Sample("a", Path("/mine/images/a.jpg"), MASK), Path("/mine")) == "images/a.jpg\tmasks/a.png"
    assert line_of(Sample("a", Path("/other/a.jpg"), None), Path("/mine")) == "/other/a.jpg"
