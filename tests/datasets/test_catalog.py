"""The catalog of data sets: consistent lists, and VOC's colours against the formula of its development kit."""

import numpy as np
import pytest
from torchvision.models._meta import _COCO_CATEGORIES

from furnace.datasets.catalog import (
    CATALOG,
    CITYSCAPES_LABEL_IDS,
    Classes,
    bright_palette,
    build_classes,
    find_classes,
    voc_palette,
)
from furnace.utils.errors import UserError


def naive_voc_colour(index: int) -> tuple[int, int, int]:
    """The development kit's loop: each round moves three bits of the index to the next lower bits of the colour."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


def test_voc_palette_is_that_of_the_development_kit():
    palette = voc_palette(256)
    assert palette == tuple(naive_voc_colour(index) for index in range(256))
    assert len(set(palette)) == 256
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)


@pytest.mark.parametrize(
    "name, count", [("pascal_voc", 21), ("cityscapes", 19), ("camvid", 11), ("ade20k", 150), ("coco", 81)]
)
def test_every_class_has_its_own_name_and_colour(name, count):
    classes = find_classes(name, count)
    assert classes is CATALOG[name]
    assert len(set(classes.names)) == len(classes.names) == count
    assert len(set(classes.palette)) == len(classes.palette) == count
    assert np.array(classes.palette).min() >= 0
    assert np.array(classes.palette).max() <= 255


def test_cityscapes_label_ids_are_those_of_its_19_classes():
    not_evaluated = {*range(7), 9, 10, 14, 15, 16, 18, 29, 30}
    assert tuple(sorted(set(range(34)) - not_evaluated)) == CITYSCAPES_LABEL_IDS
    names = CATALOG["cityscapes"].names
    assert (names[0], names[10], names[13], names[18]) == ("road", "sky", "car", "bicycle")


def test_classes_of_coco_are_those_of_torchvision():
    categories = [name for name in _COCO_CATEGORIES[1:] if name != "N/A"]
    assert CATALOG["coco"].names == ("background", *categories)


def test_classes_of_ade20k_are_at_their_places():
    names = CATALOG["ade20k"].names
    places = {"wall": 1, "bed": 8, "person": 13, "car": 21, "sink": 48, "boat": 77, "van": 103, "pot": 126, "flag": 150}
    assert {name: names.index(name) + 1 for name in places} == places
    assert (0, 0, 0) not in CATALOG["ade20k"].palette, "overlays show nothing in black, and no class is a background"


def test_class_names_in_the_settings_take_precedence():
    classes = find_classes("pascal_voc", 2, ["wood", "rust"])
    assert classes.names == ("wood", "rust")
    assert classes.palette == bright_palette(2), "black, which overlays do not show, is for backgrounds"
    assert find_classes("mine", 2, ["Background", "rust"]).palette == ((0, 0, 0), *bright_palette(1))


@pytest.mark.parametrize("name, count", [("pascal_voc", 3), ("unheard_of", 3)])
def test_unknown_classes_are_numbered(name, count):
    classes = find_classes(name, count)
    assert classes.names == ("class 0", "class 1", "class 2")
    assert classes.palette == ((0, 0, 0), *bright_palette(2))


def test_bright_colours_differ_and_stand_out():
    palette = np.array(bright_palette(254), float)
    distances = np.linalg.norm(palette[:, None] - palette, axis=2) + 255 * np.eye(len(palette))
    assert distances[:8, :8].min() > 90 and distances[:64, :64].min() > 45 and distances.min() > 30
    assert (palette[:16].max(1) == 255).all() and palette.any(1).all()
    np.testing.assert_array_equal(palette[:5], bright_palette(5), "more classes change the colours of the first")


def test_colours_in_the_settings_replace_all_others(make_settings):
    colours = ((0, 0, 0), (255, 128, 0), (1, 2, 3))
    for given in ([[0, 0, 0], "#ff8000", "010203"], "#000000,#FF8000,#010203", np.array(colours)):
        C = make_settings(num_classes=3, class_colors=given)
        assert build_classes(C) == Classes(("class 0", "class 1", "class 2"), colours)
    assert build_classes(make_settings()) is CATALOG["pascal_voc"]
    for wrong in ("#000000,#ff8000", "red,green,blue", [[0, 0, 256]] * 3, [[0, 0]] * 3, "ff"):
        with pytest.raises(UserError, match=r"class_colors.*(colours of pictures|one colour for each class)"):
            make_settings(num_classes=3, class_colors=wrong)
