"""Sliding-window inference, scale by scale, with the geometry of the published evaluation.

Windows of several images and scales share the network's batches; scores are summed on the network's device.
"""

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
Tag = TypeVar("Tag")


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
        return next(self.stream([(image, None)], network, normalize))[1]

    def stream(
        self, images: Iterable[tuple[np.ndarray, Tag]], network: Scorer, normalize: ToInput
    ) -> Iterator[tuple[Tag, Tensor]]:
        """Scores of many images, in their order, the batches being filled across images.

        Args:
            images: (H, W, 3) uint8 RGB, and whatever is to come back with its scores.
            network: normalised windows (N, 3, crop, crop) to scores (N, K, crop, crop).
            normalize: uint8 (1, 3, h, w) to float (1, 3, h, w), on the device that is to do the work.

        Yields:
            The tag, and the scores (K, H, W) on the network's device, summed over windows, mirrors and scales.
        """
        unfinished: deque[_Image] = deque()
        waiting: deque[tuple[_Scaled, int, int]] = deque()
        for image, tag in images:
            scaled = [self._scale(image, scale, normalize) for scale in self.scales]
            unfinished.append(_Image(tag, image.shape[:2], scaled))
            waiting.extend((part, y, x) for part in scaled for y, x in part.corners)
            while len(waiting) >= self.batch_size:
                self._pass(waiting, network)
            while unfinished and unfinished[0].is_finished():
                yield unfinished.popleft().result()
        while waiting:
            self._pass(waiting, network)
        for image in unfinished:
            yield image.result()

    def _scale(self, image: np.ndarray, scale: float, normalize: ToInput) -> "_Scaled":
        image = rescale(image, scale)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        height, width = image.shape[:2]
        if max(height, width) <= self.crop:
            canvas = pad_to(normalize(pixels), self.crop)
        else:
            # A side that is shorter than the window is padded before normalisation, as published.
            canvas = normalize(pad_to(pixels, self.crop))
        rows, columns = (starts(side, self.crop, self.stride_rate) for side in canvas.shape[-2:])
        return _Scaled(canvas[0], (height, width), [(y, x) for y in rows for x in columns])

    def _pass(self, waiting: deque, network: Scorer) -> None:
        """One batch of waiting windows through the network, and their scores to where they belong."""
        chunk = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
        windows = torch.stack([part.canvas[:, y : y + self.crop, x : x + self.crop] for part, y, x in chunk])
        scores = network(windows)
        if self.flip:
            scores = scores + network(windows.flip(-1)).flip(-1)
        for (part, y, x), window in zip(chunk, scores, strict=True):
            part.add(window, y, x)


@dataclass
class _Scaled:
    """One image at one scale, padded and normalised (3, h, w): its `size` without padding, its windows' corners, and
    the sum of their scores."""

    canvas: Tensor
    size: tuple[int, int]
    corners: list[tuple[int, int]]
    total: Tensor | None = None
    missing: int = field(init=False)

    def __post_init__(self):
        self.missing = len(self.corners)

    def add(self, window: Tensor, y: int, x: int) -> None:
        if self.total is None:
            self.total = window.new_zeros(len(window), *self.canvas.shape[-2:])
        self.total[:, y : y + window.shape[1], x : x + window.shape[2]] += window
        self.missing -= 1

    def scores(self) -> Tensor:
        """The sum (K, h, w), without the padding."""
        (height, width), (padded_height, padded_width) = self.size, self.canvas.shape[-2:]
        top, left = (padded_height - height) // 2, (padded_width - width) // 2
        return self.total[:, top : top + height, left : left + width]


@dataclass
class _Image:
    """One image on its way: its tag, its size, and its scaled versions."""

    tag: object
    size: tuple[int, int]
    scaled: list[_Scaled]

    def is_finished(self) -> bool:
        return all(part.missing == 0 for part in self.scaled)

    def result(self) -> tuple[object, Tensor]:
        """The tag and the scores, each scale's resized to the image (half-pixel centres, as OpenCV's INTER_LINEAR)."""
        resized = [
            F.interpolate(part.scores()[None], size=self.size, mode="bilinear", align_corners=False)[0]
            for part in self.scaled
        ]
        return self.tag, sum(resized[1:], start=resized[0])


def rescale(image: np.ndarray, scale: float) -> np.ndarray:
    """An image (H, W, 3) uint8 at `scale`, as published, each side of a pixel at least."""
    if scale == 1:
        return image
    height, width = image.shape[:2]
    # By factors where that leaves something: a size in pixels would move OpenCV's sampling points.
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
    """Zeros around images (N, C, h, w) up to `crop`; the odd row or column goes to the bottom or right."""
    missing_y, missing_x = max(crop - images.shape[-2], 0), max(crop - images.shape[-1], 0)
    if not (missing_y or missing_x):
        return images
    return F.pad(images, (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2))
