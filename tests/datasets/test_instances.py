"""Label maps from COCO's instance annotations: which object covers which, and all kinds of outlines."""

import json

import numpy as np
import pytest
from pycocotools import mask

from furnace.datasets.instances import draw_label

SIZE = (9, 11)


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """Polygon around the pixels with x from `left` to `right` - 1 and y from `top` to `bottom` - 1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def draw(*objects: tuple) -> np.ndarray:
    return draw_label(json.dumps([*SIZE, objects]).encode())


def painted(*parts: tuple) -> np.ndarray:
    """A map in which rectangles are painted one after another."""
    drawn = np.zeros(SIZE, np.uint8)
    for rows, columns, value in parts:
        drawn[rows, columns] = value
    return drawn


def test_an_image_without_objects_is_background():
    np.testing.assert_array_equal(draw(), painted())


@pytest.mark.parametrize("turned", [1, -1])
def test_the_smaller_object_covers_the_larger_in_any_order(turned):
    objects = [(7, 0, square(3, 3, 5, 5)), (80, 0, square(1, 2, 9, 8)), (2, 0, square(2, 2, 6, 7))]
    expected = painted((slice(2, 8), slice(1, 9), 80), (slice(2, 7), slice(2, 6), 2), (slice(3, 5), slice(3, 5), 7))
    np.testing.assert_array_equal(draw(*objects[::turned]), expected)


def test_of_objects_of_equal_size_the_last_is_on_top():
    np.testing.assert_array_equal(draw((5, 0, square(1, 1, 4, 4)), (3, 0, square(1, 1, 4, 4)))[2, 2], 3)


def test_crowds_are_ignored_pixels_below_every_object():
    crowd = {"size": list(SIZE), "counts": [9, 18, 72]}  # columns 1 and 2
    expected = painted((slice(0, 9), slice(1, 3), 255), (slice(1, 4), slice(2, 8), 1))
    np.testing.assert_array_equal(draw((1, 0, square(2, 1, 8, 4)), (1, 1, crowd)), expected)
    np.testing.assert_array_equal(draw((1, 1, crowd), (1, 0, square(2, 1, 8, 4))), expected)


def test_several_polygons_are_one_object_and_lines_enclose_nothing():
    parts = [*square(0, 0, 2, 2), [1, 1, 9, 8], *square(5, 5, 8, 7)]
    expected = painted((slice(0, 2), slice(0, 2), 4), (slice(5, 7), slice(5, 8), 4))
    np.testing.assert_array_equal(draw((4, 0, parts)), expected)
    np.testing.assert_array_equal(draw((4, 0, [[1, 1, 9, 8]])), painted())


def test_compressed_run_lengths_are_read():
    shape = np.random.default_rng(0).integers(0, 2, SIZE).astype(np.uint8)
    code = mask.encode(np.asfortranarray(shape))
    code["counts"] = code["counts"].decode()
    np.testing.assert_array_equal(draw((9, 0, code)), 9 * shape)
