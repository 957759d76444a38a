"""Normalisation of pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(images / 255 - mean) / std; floating-point images must be in [0, 1] and are not divided by 255.

    Args:
        mean, std: three numbers each, RGB, of values in [0, 1].

    `forward(images (B, 3, H, W))` gives the same shape in the dtype of `mean`, on the module's device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (self.unit(images) - self.mean) / self.std

    def unit(self, images: Tensor) -> Tensor:
        """Images in [0, 1], on the device and in the dtype of `mean`."""
        return images if images.is_floating_point() else images.to(self.mean) / 255
