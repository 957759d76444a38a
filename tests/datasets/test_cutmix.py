"""CutMix masks against the golden ones, and the properties that the settings require."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.cutmix import BoxMaskGenerator
from tests.golden_values import each_case, load_case

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(8, 80), st.integers(8, 80))


@each_case("cutmix_masks")
def test_masks_are_exactly_the_published_ones(name, case):
    golden = load_case(name, case)
    drawn = json.loads(str(golden["settings"]))
    n, shape, seed = (drawn.pop(key) for key in ("n_masks", "shape", "seed"))
    masks = BoxMaskGenerator(**drawn)(n, tuple(shape), np.random.RandomState(seed))
    np.testing.assert_array_equal(masks, golden["mask"])
    assert masks.dtype == np.uint8


@given(SEEDS, SHAPES, st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_masks_are_zeros_and_ones_and_inversion_swaps_them(
    seed, shape, n, n_boxes, random_aspect, by_area, inside, invert
):
    settings = {
        "n_boxes": n_boxes, "random_aspect_ratio": random_aspect, "prop_by_area": by_area, "within_bounds": inside
    }  # fmt: skip
    masks = BoxMaskGenerator(invert=invert, **settings)(n, shape, np.random.default_rng(seed))
    other = BoxMaskGenerator(invert=not invert, **settings)(n, shape, np.random.default_rng(seed))
    assert masks.shape == (n, 1, *shape)
    assert set(np.unique(masks)) <= {0, 1}
    np.testing.assert_array_equal(masks + other, 1)


@given(SEEDS, SHAPES, st.booleans())
def test_the_area_of_a_box_is_in_its_range_up_to_rounding(seed, shape, random_aspect):
    generator = BoxMaskGenerator(prop_range=(0.25, 0.5), n_boxes=1, random_aspect_ratio=random_aspect)
    masks = generator(8, shape, np.random.default_rng(seed))
    height, width = shape
    rounding = (height + width) / 2 + 1  # at most half a pixel along both sides
    areas = masks.sum((1, 2, 3))
    assert (areas >= 0.25 * height * width - rounding).all()
    assert (areas <= 0.5 * height * width + rounding).all()


@given(SEEDS, st.integers(1, 6))
def test_the_boxes_of_a_mask_share_its_area(seed, n_boxes):
    shape = np.array((400, 600))
    generator = BoxMaskGenerator(prop_range=(0.25, 0.5), n_boxes=n_boxes)
    corners, sizes = generator.draw_boxes(50, tuple(shape), np.random.default_rng(seed))
    shares = sizes.prod(2) / shape.prod() * n_boxes
    assert corners.shape == sizes.shape == (50, n_boxes, 2)
    assert 0.24 < shares.min() < shares.max() < 0.51


@given(SEEDS, st.booleans())
def test_a_range_of_sides_holds_for_both_sides(seed, random_aspect):
    shape = np.array((400, 600))
    generator = BoxMaskGenerator((0.25, 0.5), n_boxes=1, random_aspect_ratio=random_aspect, prop_by_area=False)
    _, sizes = generator.draw_boxes(50, tuple(shape), np.random.default_rng(seed))
    shares = sizes / shape
    assert 0.245 < shares.min() < shares.max() < 0.505
    assert np.allclose(shares[..., 0], shares[..., 1], atol=0.005) != random_aspect


@given(SEEDS, SHAPES)
def test_fixed_aspect_ratio_is_that_of_the_image(seed, shape):
    generator = BoxMaskGenerator(n_boxes=1, random_aspect_ratio=False)
    _, sizes = generator.draw_boxes(10, shape, np.random.default_rng(seed))
    share = sizes / shape
    assert (np.abs(share[..., 0] - share[..., 1]) <= 0.5 / shape[0] + 0.5 / shape[1]).all()


@given(SEEDS, SHAPES, st.integers(1, 4))
def test_boxes_lie_inside_the_image_unless_allowed_to_leave(seed, shape, n_boxes):
    generator = BoxMaskGenerator(n_boxes=n_boxes)
    corners, sizes = generator.draw_boxes(20, shape, np.random.default_rng(seed))
    assert (corners >= 0).all()
    assert (corners + sizes <= shape).all()

    corners, sizes = BoxMaskGenerator(n_boxes=n_boxes, within_bounds=False).draw_boxes(
        200, shape, np.random.default_rng(seed)
    )
    assert (corners < 0).any()
    assert (corners + sizes > shape).any()


def test_overlapping_boxes_toggle():
    class TwoBoxes(BoxMaskGenerator):
        def draw_boxes(self, n, shape, rng):
            corners, sizes = np.array([[[0, 0], [1, 2]]]), np.array([[[3, 4], [3, 4]]])
            return corners, sizes

    mask = TwoBoxes()(1, (5, 7), np.random.default_rng(0))[0, 0]
    assert mask.tolist() == [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_seed_gives_the_same_masks_and_another_seed_others():
    masks = [BoxMaskGenerator()(2, (32, 32), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
