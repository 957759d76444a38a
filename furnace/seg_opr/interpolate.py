"""Bilinear interpolation, as used in the network, its decoder and its losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 3  # of a convolution, per axis


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of maps (B, C, h, w) to (B, C, *size), corners aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def convolve_upsampled(maps: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The 3x3 convolution, with padding 1, of upsampled maps, without upsampling them.

    Both operations are linear. So each of the nine taps is a 1x1 convolution of the small maps, and then the sum over
    taps and the interpolation are one matrix product per axis. From 4 times the pixels on, this is less arithmetic.

    Args:
        maps: (B, C, h, w).
        weight: (O, C, 3, 3).
        size: (H, W), to which `upsample` would bring the maps.

    Returns:
        (B, O, H, W), channels last.
    """
    (batch, channels, height, width), outputs = maps.shape, len(weight)
    taps = weight.permute(3, 2, 0, 1).reshape(-1, channels, 1, 1)  # column by column
    products = F.conv2d(maps, taps).permute(0, 2, 3, 1)  # (B, h, w, 9 O)
    wide = interpolation(width, size[1], maps) @ products.reshape(batch * height, width * TAPS, TAPS * outputs)
    rows = wide.view(batch, height, size[1], TAPS, outputs).transpose(2, 3).reshape(batch, height * TAPS, -1)
    return (interpolation(height, size[0], maps) @ rows).view(batch, *size, outputs).permute(0, 3, 1, 2)


def interpolation(side: int, size: int, like: Tensor) -> Tensor:
    """Matrix (size, 3 * side) of an axis: each pixel's share in the upsampled line at the taps -1, 0 and 1."""
    precision = torch.promote_types(like.dtype, torch.float32)
    pixels = torch.eye(side, dtype=precision, device=like.device)
    line = upsample(pixels[None, None], (side, size))[0, 0].T  # (size, side)
    padded = F.pad(line, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + size] for tap in range(TAPS)], 2).flatten(1).to(like.dtype)
