"""Crops against the golden values, and against mirroring, scaling and cropping the whole image."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.transforms import Crop, crop_image, crop_label, draw_crop
from furnace.utils.labels import IGNORE_INDEX
from tests.golden_values import each_case, load_arrays, load_case

TRAIN_SCALES = [0.5, 0.75, 1, 1.5, 1.75, 2.0]
FILL = (1, 2, 3)
SCALES = st.sampled_from(TRAIN_SCALES) | st.floats(0.1, 4) | st.floats(0.97, 1.03)
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.tuples(st.integers(2, 120), st.integers(2, 120))
CROPS = st.tuples(st.integers(1, 70), st.integers(1, 70))


@each_case("transform_city", "transform_voc")
def test_crops_are_the_published_ones(name, case):
    shared, golden = load_arrays(name), load_case(name, case)
    drawn = Crop(bool(golden["flip"]), float(golden["scale"]), *(int(p) for p in golden["pos"]))
    size = tuple(int(side) for side in shared["crop"])
    mean_colour = tuple(round(255 * mean) for mean in shared["mean"])

    image = crop_image(shared["image"], drawn, size, mean_colour)
    expected = 255 * (golden["out_image"].transpose(1, 2, 0) * shared["std"] + shared["mean"])

    assert np.abs(image - expected).max() <= 1.5
    np.testing.assert_array_equal(crop_label(shared["label"], drawn, size), golden["out_label"])


def draw(
    seed: int, size: tuple[int, int], crop: tuple[int, int], scale: float
) -> tuple[np.random.Generator, Crop, tuple[int, int]]:
    """A generator, the crop that it draws for an image of `size`, and the size of the scaled image."""
    rng = np.random.default_rng(seed)
    return rng, draw_crop(size, crop, [scale], rng), tuple(max(int(side * scale), 1) for side in size)


def crop_and_pad(scaled: np.ndarray, drawn: Crop, crop: tuple[int, int], fill) -> np.ndarray:
    """The window of a scaled whole image, centred in a crop filled with `fill`."""
    window = scaled[drawn.top : drawn.top + crop[0], drawn.left : drawn.left + crop[1]]
    padded = np.zeros((*crop, *scaled.shape[2:]), dtype=scaled.dtype) + np.array(fill, dtype=scaled.dtype)
    top, left = ((target - side) // 2 for target, side in zip(crop, window.shape[:2], strict=True))
    padded[top : top + window.shape[0], left : left + window.shape[1]] = window
    return padded


@given(SEEDS, SIDES, CROPS, SCALES)
def test_image_crop_is_within_one_grey_level_of_scaling_the_whole_image(seed, size, crop, scale):
    rng, drawn, (height, width) = draw(seed, size, crop, scale)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(image[:, ::-1] if drawn.flip else image)
    scaled = cv2.resize(mirrored, (width, height), interpolation=cv2.INTER_LINEAR)

    image.setflags(write=False)
    found = crop_image(image, drawn, crop, FILL)

    assert found.dtype == np.uint8 and not np.shares_memory(found, image)
    assert np.abs(found.astype(int) - crop_and_pad(scaled, drawn, crop, FILL)).max() <= 1


@given(SEEDS, SIDES, CROPS, SCALES)
def test_label_crop_is_exactly_that_of_the_whole_label(seed, size, crop, scale):
    rng, drawn, (height, width) = draw(seed, size, crop, scale)
    label = rng.integers(0, 256, size, dtype=np.uint8)
    mirrored = label[:, ::-1] if drawn.flip else label
    scaled = np.empty((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            scaled[y, x] = mirrored[y * size[0] // height, x * size[1] // width]

    label.setflags(write=False)
    found = crop_label(label, drawn, crop)

    assert found.dtype == np.uint8 and not np.shares_memory(found, label)
    np.testing.assert_array_equal(found, crop_and_pad(scaled, drawn, crop, IGNORE_INDEX))


@pytest.mark.parametrize("scale", [1.01, 1.02, 0.99])
def test_a_scale_so_near_one_that_the_crop_keeps_its_size_is_still_applied(scale):
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    drawn = Crop(False, scale, 0, 20)
    scaled = cv2.resize(image, (int(150 * scale), int(100 * scale)), interpolation=cv2.INTER_LINEAR)
    found = crop_image(image, drawn, (20, 24), FILL)
    assert np.abs(found.astype(int) - scaled[:20, 20:44]).max() <= 1


@given(SEEDS, SIDES, CROPS)
def test_without_scaling_the_crop_is_exact(seed, size, crop):
    rng, drawn, _ = draw(seed, size, crop, 1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mirrored = image[:, ::-1] if drawn.flip else image
    np.testing.assert_array_equal(crop_image(image, drawn, crop, FILL), crop_and_pad(mirrored, drawn, crop, FILL))


@given(SEEDS, SIDES, CROPS)
def test_a_crop_starts_inside_and_never_leaves_the_image_while_it_fits(seed, size, crop):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        drawn = draw_crop(size, crop, TRAIN_SCALES, rng)
        assert drawn.scale in TRAIN_SCALES
        for start, side, target in zip((drawn.top, drawn.left), size, crop, strict=True):
            assert 0 <= start <= max(int(side * drawn.scale) - target, 0)


def test_every_start_is_drawn():
    rng = np.random.default_rng(0)
    drawn = [draw_crop((6, 5), (4, 3), [1, 2], rng) for _ in range(2000)]
    for scale, tops, lefts in ((1, 3, 3), (2, 9, 8)):
        assert {crop.top for crop in drawn if crop.scale == scale} == set(range(tops))
        assert {crop.left for crop in drawn if crop.scale == scale} == set(range(lefts))


def test_an_image_is_mirrored_half_of_the_time_and_every_scale_is_as_likely():
    rng = np.random.default_rng(0)
    drawn = [draw_crop((9, 9), (4, 4), TRAIN_SCALES, rng) for _ in range(6000)]
    assert np.mean([crop.flip for crop in drawn]) == pytest.approx(0.5, abs=0.03)
    for scale in TRAIN_SCALES:
        assert np.mean([crop.scale == scale for crop in drawn]) == pytest.approx(1 / 6, abs=0.03)
