"""CutMix masks (Yun et al., ICCV 2019; for segmentation: French et al., BMVC 2020)."""

from dataclasses import dataclass

import numpy as np

Random = np.random.Generator | np.random.RandomState
MAX_DRAWS = 100  # ratios until a box fits; after them the mask has no box, as for images a few pixels high


@dataclass(frozen=True)
class BoxMaskGenerator:
    """Draw masks of boxes.

    Args:
        prop_range: smallest and largest share of the image for all boxes of a mask together.
        n_boxes: boxes per mask; overlaps toggle.
        random_aspect_ratio: draw the boxes' aspect ratios, else use that of the image.
        prop_by_area: the range is for areas, else for sides.
        within_bounds: boxes lie inside the image.
        invert: 1 inside the boxes, else 0 inside.

    `generator(n, (H, W), rng)` gives (n, 1, H, W) uint8 of 0 and 1.
    """

    prop_range: tuple[float, float] = (0.25, 0.5)
    n_boxes: int = 3
    random_aspect_ratio: bool = True
    prop_by_area: bool = True
    within_bounds: bool = True
    invert: bool = True

    def __call__(self, n: int, shape: tuple[int, int], rng: Random) -> np.ndarray:
        corners, sizes = self.draw_boxes(n, shape, rng)
        masks = np.full((n, 1, *shape), 0 if self.invert else 1, dtype=np.uint8)
        low = corners.clip(0, shape).astype(int)
        high = (corners + sizes).clip(0, shape).astype(int)
        for mask, starts, ends in zip(masks, low, high, strict=True):
            for (top, left), (bottom, right) in zip(starts, ends, strict=True):
                mask[0, top:bottom, left:right] ^= 1
        return masks

    def draw_boxes(self, n: int, shape: tuple[int, int], rng: Random) -> tuple[np.ndarray, np.ndarray]:
        """Top left corners and sizes, (n, n_boxes, 2) each, rows before columns."""
        count = (n, self.n_boxes)
        share = rng.uniform(*self.prop_range, count)
        if not self.random_aspect_ratio:
            height = width = np.sqrt(share) if self.prop_by_area else share
        elif self.prop_by_area:
            height = np.exp(rng.uniform(0, 1, count) * np.log(share))
            width = share / height
        else:
            height, width = share, rng.uniform(*self.prop_range, count)
        shrink = np.sqrt(1 / self.n_boxes)
        sizes = np.round(np.stack([height * shrink, width * shrink], axis=2) * shape)
        if self.within_bounds:
            corners = np.round((shape - sizes) * rng.uniform(0, 1, (*count, 2)))
        else:
            centres = np.round(shape * rng.uniform(0, 1, (*count, 2)))
            corners = centres - sizes / 2
        return corners, sizes


def draw_box(
    shape: tuple[int, int],
    rng: np.random.Generator,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    probability: float = 0.5,
) -> np.ndarray:
    """A mask with one box or none, as in UniMatch (Yang et al., CVPR 2023).

    Args:
        shape: (H, W).
        rng: source of all random numbers.
        area: smallest and largest share of the image; all between are equally likely.
        aspect: smallest and largest ratio of the box's height and width, in pixels.
        probability: of a box.

    Returns:
        (H, W) bool, True inside the box.
    """
    mask = np.zeros(shape, bool)
    if rng.random() >= probability:
        return mask
    pixels = rng.uniform(*area) * mask.size
    for _ in range(MAX_DRAWS):
        ratio = rng.uniform(*aspect)
        sides = np.sqrt([pixels * ratio, pixels / ratio]).astype(int)
        if (sides <= shape).all():
            top, left = rng.integers(0, shape - sides + 1)
            mask[top : top + sides[0], left : left + sides[1]] = True
            break
    return mask
