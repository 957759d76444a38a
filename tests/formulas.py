"""Plain formulas of layers, to compare networks with."""

import numpy as np
import torch
from torch import Tensor


def batch_norm(x: Tensor, weights: dict[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    """BatchNorm of x (B, C, H, W) in eval mode, with the entries `name`.* of a state dict."""
    mean, var, scale, shift = (
        weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + eps) * scale + shift


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation with aligned corners, one axis after the other, with numpy.interp."""
    array = maps.numpy()
    for axis, target in zip((2, 3), size, strict=True):
        side = array.shape[axis]
        places = np.linspace(0, side - 1, target)
        array = np.apply_along_axis(lambda line, p=places, n=side: np.interp(p, np.arange(n), line), axis, array)
    return torch.from_numpy(array)
