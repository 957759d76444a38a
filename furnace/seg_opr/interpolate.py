"""Bilinear interpolation, as used in the network, its decoder and its losses."""

import torch.nn.functional as F
from torch import Tensor


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of maps (B, C, h, w) to (B, C, *size), corners aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)
