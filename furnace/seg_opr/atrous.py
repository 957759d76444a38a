"""Dilated convolution whose backward pass leaves out the padding."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TAPS = (-1, 0, 1)  # of a 3x3 convolution, per axis, in steps of the dilation


class AtrousConvolution(torch.autograd.Function):
    """`apply(maps (B, C, h, w), weight (O, C, 3, 3), rate)`: dilation and padding are `rate`; gives (B, O, h, w).

    On maps not much larger than `rate`, most taps of most pixels meet padding. oneDNN, PyTorch's library for CPUs,
    skips part of it in the forward pass, but nothing in the backward pass. Here the backward pass has one matrix
    product per tap, over the pixels that meet the map. Sums over taps are float32 at least.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.rate = rate
        return F.conv2d(maps, weight, padding=rate, dilation=rate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        maps, weight = ctx.saved_tensors
        outputs, channels = weight.shape[:2]
        grads, pixels = grad_output.permute(0, 2, 3, 1), maps.permute(0, 2, 3, 1)
        grad_pixels = torch.zeros_like(pixels, dtype=torch.promote_types(maps.dtype, torch.float32))
        grad_weight = torch.zeros_like(weight)
        for row, (out_y, in_y) in covered_pixels(maps.shape[2], ctx.rate):
            for column, (out_x, in_x) in covered_pixels(maps.shape[3], ctx.rate):
                here, there = grads[:, out_y, out_x], pixels[:, in_y, in_x]
                flat = here.reshape(-1, outputs)
                grad_weight[:, :, row, column] = flat.T @ there.reshape(-1, channels)
                grad_pixels[:, in_y, in_x] += (flat @ weight[:, :, row, column]).view(there.shape)
        return grad_pixels.to(maps.dtype).permute(0, 3, 1, 2), grad_weight, None


def covered_pixels(side: int, rate: int) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """The index of each tap of an axis that meets the map: the pixels that it adds to, and those that it reads."""
    for index, tap in enumerate(TAPS):
        shift = tap * rate
        if abs(shift) < side:
            yield index, (slice(max(-shift, 0), side - max(shift, 0)), slice(max(shift, 0), side + min(shift, 0)))


def covered_share(size: tuple[int, int], rate: int) -> float:
    """Share of all taps of all pixels of a map (h, w) that meet the map, not padding."""
    vertical, horizontal = [sum([max(side - abs(tap) * rate, 0) for tap in TAPS]) / (len(TAPS) * side) for side in size]
    return vertical * horizontal
