"""Sliding-window inference, scale by scale, with the geometry of the published evaluation.

Windows of several images and scales share the network's batches. Scores are summed on the network's device; with one
scale of 1, only as many rows as the window has are held.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ToInput = Callable[[Tensor], Tensor]
Scorer = Callable[[Tensor], Tensor]
Reducer = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Tag = TypeVar("Tag")
ROWS = 32  # reduced at a time: soft-max and arg-max make copies


def whole_scores(scores: Tensor, counts: Tensor) -> tuple[Tensor]:
    """The unchanged scores."""
    return (scores,)


@dataclass(frozen=True)
class SlidingWindow:
    """Geometry of the sliding windows.

    Args:
        crop: side of the window.
        stride_rate: stride as a share of `crop`.
        scales: factors of the image's size; their scores are added.
        flip: add the scores of the mirrored windows.
        batch_size: windows per pass of the network.
    """

    crop: int
    stride_rate: float = 2 / 3
    scales: Sequence[float] = (1,)
    flip: bool = False
    batch_size: int = 1

    def scores(self, image: np.ndarray, network: Scorer, normalize: ToInput) -> Tensor:
        """Scores (K, H, W) of an image (H, W, 3) uint8 RGB; `network` and `normalize` as in `stream`."""
        ((_, (scores,)),) = self.stream([(image, None)], network, normalize)
        return scores

    def stream(
        self,
        images: Iterable[tuple[np.ndarray, Tag]],
        network: Scorer,
        normalize: ToInput,
        reduce: Reducer = whole_scores,
    ) -> Iterator[tuple[Tag, tuple[Tensor, ...]]]:
        """Maps of many images, in their order; a batch may contain windows of several images.

        If the only scale is 1, `crop` rows of an image's scores are held, not the whole image: rows above the next
        windows are reduced at once.

        Args:
            images: (H, W, 3) uint8 RGB, and a tag that is returned with its maps.
            network: normalised windows (N, 3, crop, crop) to scores (N, K, crop, crop).
            normalize: uint8 (1, 3, h, w) to float (1, 3, h, w), on the network's device.
            reduce: scores (K, h, W) of some rows, summed over windows, mirrors and scales, and the number of
                summands (h, W), to maps (..., h, W).

        Yields:
            The tag, and the maps (..., H, W) of `reduce`; by default the scores (K, H, W) on the network's device.
        """
        unfinished: deque[_Image] = deque()
        waiting: deque[tuple[_Scaled, int, int]] = deque()
        for image, tag in images:
            scaled = [self._scale(image, scale, normalize) for scale in self.scales]
            unfinished.append(_Image(tag, image.shape[:2], scaled, reduce))
            waiting.extend((part, y, x) for part in scaled for y, x in part.corners)
            while len(waiting) >= self.batch_size:
                self._pass(waiting, network)
            while unfinished and unfinished[0].is_finished():
                yield unfinished.popleft().result()
        while waiting:
            self._pass(waiting, network)
        while unfinished:
            yield unfinished.popleft().result()

    def _scale(self, image: np.ndarray, scale: float, normalize: ToInput) -> "_Scaled":
        image = rescale(image, scale)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        height, width = image.shape[:2]
        if max(height, width) <= self.crop:
            canvas, prepare = pad_to(normalize(pixels), self.crop), None
        else:
            # A side that is shorter than the window is padded before normalisation, as published.
            canvas, prepare = pad_to(pixels, self.crop), normalize
        rows, columns = (starts(side, self.crop, self.stride_rate) for side in canvas.shape[-2:])
        return _Scaled(canvas, prepare, self.crop, (height, width), [(y, x) for y in rows for x in columns])

    def _pass(self, waiting: deque, network: Scorer) -> None:
        """Pass one batch of waiting windows through the network and add their scores to their images."""
        chunk = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
        windows = torch.stack([part.window(y, x) for part, y, x in chunk])
        scores = network(windows)
        if self.flip:
            scores = scores + network(windows.flip(-1)).flip(-1)
        for (part, y, x), window in zip(chunk, scores, strict=True):
            part.add(window, 1 + self.flip, y, x)


@dataclass
class _Scaled:
    """One image at one scale, row by row of its windows: pixels in, sums of scores out.

    Args:
        canvas: the padded image (1, 3, h, w).
        prepare: normalises rows of the canvas; None if they are normalised already.
        crop: side of the window.
        size: of the image without padding.
        corners: first pixels (y, x) of the windows, row by row.

    `take` gets the finished rows of the sums (K + 1, rows, w), without padding, from top to bottom; the last channel is
    the number of summands. Without `take` the rows are held.
    """

    canvas: Tensor
    prepare: ToInput | None
    crop: int
    size: tuple[int, int]
    corners: list[tuple[int, int]]
    take: Callable[[Tensor], None] | None = None
    total: Tensor | None = None  # the sums of the rows from `top` on
    top: int = 0
    missing: int = field(init=False)
    prepared: tuple[int, Tensor] | None = None  # the first row and the input (3, crop, w) of the current windows

    def __post_init__(self):
        self.missing = len(self.corners)

    def window(self, y: int, x: int) -> Tensor:
        """The input (3, crop, crop) of a window."""
        if self.prepared is None or self.prepared[0] != y:
            rows = self.canvas[..., y : y + self.crop, :]
            self.prepared = y, (self.prepare(rows) if self.prepare else rows)[0]
        return self.prepared[1][..., x : x + self.crop]

    def add(self, window: Tensor, count: int, y: int, x: int) -> None:
        """Add a window's scores (K, crop, crop), a sum of `count` passes; windows come in the order of `corners`."""
        if self.total is None:
            rows = self.crop if self.take else self.canvas.shape[-2]
            self.total = window.new_zeros(len(window) + 1, rows, self.canvas.shape[-1])
        if self.take and y > self.top:
            self._finish(y)
        here = self.total[:, y - self.top : y - self.top + self.crop, x : x + self.crop]
        here[:-1] += window
        here[-1] += count
        self.missing -= 1
        if self.take and not self.missing:
            self._finish(self.canvas.shape[-2])
            self.total = None

    def scores(self) -> Tensor:
        """The sums (K + 1, h, w) of a finished image that was held as a whole."""
        return self._unpadded(self.total)

    def _finish(self, until: int) -> None:
        """Hand the rows above `until` to `take`, and move the rows below up."""
        count = until - self.top
        self.take(self._unpadded(self.total[:, :count]))
        kept = self.total.shape[1] - count
        self.total[:, :kept] = self.total[:, count:].clone()
        self.total[:, kept:] = 0
        self.top = until

    def _unpadded(self, rows: Tensor) -> Tensor:
        """Rows from `top` on, without the padding."""
        (height, width), (padded_height, padded_width) = self.size, self.canvas.shape[-2:]
        top, left = (padded_height - height) // 2, (padded_width - width) // 2
        first, last = max(top - self.top, 0), max(top + height - self.top, 0)
        return rows[:, first:last, left : left + width]


class _Image:
    """One image in progress: its tag, its size, its scaled versions, and the finished rows of its maps."""

    def __init__(self, tag: object, size: tuple[int, int], scaled: list[_Scaled], reduce: Reducer):
        self.tag, self.size, self.scaled, self.reduce = tag, size, scaled, reduce
        self.maps: tuple[Tensor, ...] | None = None
        self.done = 0  # rows
        if [part.size for part in scaled] == [size]:  # otherwise rows of different scales would have to be resized
            scaled[0].take = self.take

    def is_finished(self) -> bool:
        return all(part.missing == 0 for part in self.scaled)

    def take(self, sums: Tensor) -> None:
        """Reduce finished rows (K + 1, h, W), `ROWS` at a time."""
        for rows in sums.split(ROWS, dim=1):
            found, count = self.reduce(rows[:-1], rows[-1]), rows.shape[1]
            if self.maps is None:
                self.maps = tuple(part.new_empty(*part.shape[:-2], *self.size) for part in found)
            for whole, part in zip(self.maps, found, strict=True):
                whole[..., self.done : self.done + count, :] = part
            self.done += count

    def result(self) -> tuple[object, tuple[Tensor, ...]]:
        """The tag and the maps of the whole image."""
        if self.scaled[0].take is None:
            self.take(self.resized())
        return self.tag, self.maps

    def resized(self) -> Tensor:
        """Total over the scales at the image's size (half-pixel centres, as OpenCV's INTER_LINEAR)."""
        resized = (
            F.interpolate(part.scores()[None], size=self.size, mode="bilinear", align_corners=False)[0]
            for part in self.scaled
        )
        return functools.reduce(torch.add, resized)


def rescale(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 by `scale`, as published; each side has at least one pixel."""
    if scale == 1:
        return image
    height, width = image.shape[:2]
    # Use factors if the result is not empty: a size in pixels would move OpenCV's sampling points.
    if round(min(height, width) * scale) >= 1:
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def starts(side: int, crop: int, stride_rate: float) -> list[int]:
    """First pixels of the windows along a side of at least `crop` pixels; the last one touches the border."""
    stride = ceil(crop * stride_rate)
    count = ceil((side - crop) / stride) + 1
    return [min(i * stride, side - crop) for i in range(count)]


def pad_to(images: Tensor, crop: int) -> Tensor:
    """Pad images (N, C, h, w) with zeros to at least `crop`; an odd row or column goes to the bottom or right."""
    missing_y, missing_x = max(crop - images.shape[-2], 0), max(crop - images.shape[-1], 0)
    if not (missing_y or missing_x):
        return images
    return F.pad(images, (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2))
