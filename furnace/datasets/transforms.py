"""Training augmentation: mirror, scale, crop and pad, computing only the pixels of the crop.

The geometry is that of the published code: a scaled side has `int(side * scale)` pixels, images are scaled with
half-pixel centres (OpenCV's INTER_LINEAR), labels use the source pixel `floor(i * side / scaled_side)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import cv2
import numpy as np

from furnace.utils.labels import IGNORE_INDEX

MAX_PHASE_ERROR = 1 / 512  # in source pixels, for aligning a scaled part with the scaled whole


@dataclass(frozen=True)
class Crop:
    """Random choices for one training image: mirroring, scale, and the crop's corner in the scaled image."""

    flip: bool
    scale: float
    top: int
    left: int


def draw_crop(size: tuple[int, int], crop: tuple[int, int], scales: Sequence[float], rng: np.random.Generator) -> Crop:
    """Draw mirror, scale and position for an image of `size` (H, W) and a crop (h, w)."""
    flip = bool(rng.random() < 0.5)
    scale = float(scales[rng.integers(len(scales))])
    top, left = (
        int(rng.integers(max(scaled_side(side, scale) - target, 0) + 1))
        for side, target in zip(size, crop, strict=True)
    )
    return Crop(flip, scale, top, left)


def crop_image(image: np.ndarray, drawn: Crop, crop: tuple[int, int], fill: tuple[int, int, int]) -> np.ndarray:
    """The crop (h, w, 3) uint8 of the mirrored and scaled image (H, W, 3) uint8, padded with `fill`."""
    (y0, y1, rows), (x0, x1, columns) = (
        _part(side, drawn.scale, start, target)
        for side, start, target in zip(image.shape[:2], (drawn.top, drawn.left), crop, strict=True)
    )
    part = image[y0:y1, image.shape[1] - x1 : image.shape[1] - x0] if drawn.flip else image[y0:y1, x0:x1]
    if drawn.flip:
        part = cv2.flip(part, 1)
    if drawn.scale != 1:
        scale_y, scale_x = (scaled_side(side, drawn.scale) / side for side in image.shape[:2])
        part = cv2.resize(part, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)
    return pad(part[rows, columns], crop, fill)


def crop_label(label: np.ndarray, drawn: Crop, crop: tuple[int, int], fill: int = IGNORE_INDEX) -> np.ndarray:
    """The crop (h, w) uint8 of the mirrored and scaled label (H, W) uint8, padded with `fill`."""
    rows, columns = (
        _nearest(side, drawn.scale, start, target)
        for side, start, target in zip(label.shape, (drawn.top, drawn.left), crop, strict=True)
    )
    if drawn.flip:
        columns = label.shape[1] - 1 - columns
    return pad(label[rows].take(columns, axis=1), crop, fill)


def pad(array: np.ndarray, crop: tuple[int, int], fill: int | tuple[int, int, int]) -> np.ndarray:
    """A copy of `array` (h, w) or (h, w, 3) in the middle of `crop`; odd rows or columns go to the bottom or right."""
    (top, bottom), (left, right) = (
        ((target - side) // 2, target - side - (target - side) // 2)
        for side, target in zip(array.shape[:2], crop, strict=True)
    )
    return cv2.copyMakeBorder(array, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill)


def scaled_side(side: int, scale: float) -> int:
    """Pixels of a side after scaling, at least one."""
    return max(int(side * scale), 1)


def _nearest(side: int, scale: float, start: int, target: int) -> np.ndarray:
    scaled = scaled_side(side, scale)
    wanted = np.arange(start, min(start + target, scaled))
    return wanted * side // scaled


def _part(side: int, scale: float, start: int, target: int) -> tuple[int, int, slice]:
    """Source pixels [first, last) that, scaled alone, contain the scaled pixels from `start` on; and their slice.

    Scaled pixel i lies at (i + 0.5) * step - 0.5 of the source. A part that begins at scaled pixel `begin` gives
    the same values only if `begin * step` is a whole number: go back from `start` by one source pixel, so that
    the border of the part has no effect, and on to the next place where it is (nearly) one.
    """
    scaled = scaled_side(side, scale)
    step = side / scaled
    end = min(start + target, scaled)
    begin = max(start - ceil(1 / step), 0)
    while abs(begin * step - round(begin * step)) > MAX_PHASE_ERROR:
        begin -= 1
    first = round(begin * step)
    last = min(floor(end * step) + 2, side)
    if scaled != side and round((last - first) * (scaled / side)) == last - first:
        # OpenCV copies, instead of scaling, a part whose size does not change: take the whole side.
        return 0, side, slice(start, end)
    return first, last, slice(start - begin, end - begin)
