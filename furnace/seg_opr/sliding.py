"""Sliding-window inference, scale by scale, with the geometry of the published evaluation."""

from collections.abc import Callable, Sequence
from math import ceil

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Normalize = Callable[[Tensor], Tensor]
Network = Callable[[Tensor], Tensor]


def sliding_scores(
    image: np.ndarray,
    network: Network,
    normalize: Normalize,
    *,
    crop: int,
    stride_rate: float = 2 / 3,
    scales: Sequence[float] = (1,),
    flip: bool = False,
    batch_size: int = 1,
) -> Tensor:
    """Scores of every class at every pixel, summed over windows, mirror images and scales.

    Args:
        image: (H, W, 3) uint8 RGB.
        network: normalised windows (N, 3, crop, crop) to scores (N, K, crop, crop).
        normalize: uint8 (N, 3, h, w) to float (N, 3, h, w), on the device that is to do the work.
        crop: side of the window.
        stride_rate: stride as a share of `crop`.
        scales: factors of the image's size.
        flip: add the scores of the mirrored windows.
        batch_size: windows in one pass of the network.

    Returns:
        (K, H, W), on the network's device.
    """
    height, width = image.shape[:2]
    total = None
    for scale in scales:
        scaled = image
        if scale != 1:
            scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        scores = scale_scores(to_tensor(scaled), network, normalize, crop, stride_rate, flip, batch_size)
        scores = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        total = scores if total is None else total + scores
    return total


def scale_scores(
    image: Tensor, network: Network, normalize: Normalize, crop: int, stride_rate: float, flip: bool, batch_size: int
) -> Tensor:
    """Scores (K, h, w) of one scaled image (3, h, w) uint8: one padded window if it fits, else many."""
    height, width = image.shape[-2:]
    top, left = (max(crop - height, 0) // 2, max(crop - width, 0) // 2)
    if max(height, width) <= crop:
        windows = pad_to(normalize(image[None]), crop)
        return window_scores(windows, network, flip)[0, :, top : top + height, left : left + width]

    # A side that is shorter than the window is padded before normalisation, as published.
    padded = normalize(pad_to(image[None], crop))
    corners = [
        (y, x) for y in starts(padded.shape[-2], crop, stride_rate) for x in starts(padded.shape[-1], crop, stride_rate)
    ]
    total = None
    for first in range(0, len(corners), batch_size):
        chunk = corners[first : first + batch_size]
        windows = torch.cat([padded[..., y : y + crop, x : x + crop] for y, x in chunk])
        scores = window_scores(windows, network, flip)
        if total is None:
            total = scores.new_zeros(scores.shape[1], *padded.shape[-2:])
        for (y, x), window in zip(chunk, scores, strict=True):
            total[:, y : y + crop, x : x + crop] += window
    return total[:, top : top + height, left : left + width]


def window_scores(windows: Tensor, network: Network, flip: bool) -> Tensor:
    """Scores (N, K, crop, crop) of windows (N, 3, crop, crop), those of their mirror images added if asked."""
    scores = network(windows)
    return scores + network(windows.flip(-1)).flip(-1) if flip else scores


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


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) uint8, without a copy."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
