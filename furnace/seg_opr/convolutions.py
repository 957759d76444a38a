"""Convolutions with backward passes for CPUs, where those of oneDNN, PyTorch's library, do needless or slow work."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALL_KERNEL = 3  # up to this side, oneDNN computes the gradient of depthwise weights fast in 16 bits


class AtrousConvolution(torch.autograd.Function):
    """`apply(maps (B, C, h, w), weight (O, C, 3, 3), rate)`: dilation and padding are `rate`; gives (B, O, h, w).

    On maps not much larger than `rate`, most taps of most pixels meet padding. oneDNN skips part of it in the forward
    pass, but nothing in the backward pass. Here the backward pass has one matrix product per tap, over the pixels that
    meet the map. Sums over taps are float32 at least.
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
        grad_pixels = torch.zeros_like(pixels, dtype=precise(maps.dtype))
        grad_weight = torch.zeros_like(weight)
        rows, columns = (list(covered(side, side, 3, 1, ctx.rate, ctx.rate)) for side in maps.shape[2:])
        for row, out_y, in_y in rows:
            for column, out_x, in_x in columns:
                here, there = grads[:, out_y, out_x], pixels[:, in_y, in_x]
                flat = here.reshape(-1, outputs)
                grad_weight[:, :, row, column] = flat.T @ there.reshape(-1, channels)
                grad_pixels[:, in_y, in_x] += (flat @ weight[:, :, row, column]).view(there.shape)
        return grad_pixels.to(maps.dtype).permute(0, 3, 1, 2), grad_weight, None


class DepthwiseConvolution(torch.autograd.Function):
    """`apply(maps (B, C, H, W), weight (C, 1, k, l), bias, stride, padding, dilation)` gives (B, C, h, w).

    `bias` is (C,) or None; stride, padding and dilation are two numbers each. oneDNN's backward pass takes many times
    as long as its forward pass: gradients of maps are slow with dilation, or with a stride in 16 bits, and those of
    weights are slow with dilation, or with large kernels in 16 bits.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Sequence[int]) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.geometry, ctx.has_bias = Geometry(*geometry), bias is not None
        return F.conv2d(maps, weight, bias, *geometry, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        grad_maps = depthwise_grad_maps(grad_output, maps, weight, ctx.geometry)
        grad_weight = depthwise_grad_weight(grad_output, maps, weight, ctx.geometry)
        grad_bias = grad_output.sum((0, 2, 3)) if ctx.has_bias else None
        return grad_maps, grad_weight, grad_bias, None, None, None


class Geometry(NamedTuple):
    """Two numbers each."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


def depthwise_grad_maps(grad_output: Tensor, maps: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Gradient (B, C, H, W) of the maps: without stride, a forward pass with the mirrored kernel."""
    stride, padding, dilation = geometry
    if max(stride) == 1:
        reach = [d * (side - 1) - p for d, side, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        return F.conv2d(grad_output, weight.flip(2, 3), None, 1, reach, dilation, len(weight))
    precision = precise(maps.dtype)
    tensors = (tensor.to(precision) for tensor in (grad_output, maps, weight))
    return library_gradients(*tensors, geometry, [True, False, False])[0].to(maps.dtype)


def depthwise_grad_weight(grad_output: Tensor, maps: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Gradient (C, 1, k, l) of the weight: where oneDNN is slow, products and sums per tap, in float32 at least."""
    small = max(weight.shape[2:]) <= SMALL_KERNEL or maps.dtype == torch.float32
    if max(geometry.dilation) == 1 and small:
        return library_gradients(grad_output, maps, weight, geometry, [False, True, False])[1]
    precision = precise(maps.dtype)
    grads, pixels = (tensor.permute(0, 2, 3, 1).to(precision) for tensor in (grad_output, maps))
    sums = pixels.new_zeros(*weight.shape[2:], len(weight))
    sizes = zip(maps.shape[2:], grad_output.shape[2:], weight.shape[2:], *geometry, strict=True)
    rows, columns = (list(covered(*axis)) for axis in sizes)
    for row, out_y, in_y in rows:
        for column, out_x, in_x in columns:
            sums[row, column] = (grads[:, out_y, out_x] * pixels[:, in_y, in_x]).sum((0, 1, 2))
    return sums.permute(2, 0, 1)[:, None].to(weight.dtype)


def library_gradients(
    grad_output: Tensor, maps: Tensor, weight: Tensor, geometry: Geometry, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """PyTorch's gradients of maps, weight and bias of a depthwise convolution, where `wanted`."""
    others = *geometry, False, [0, 0], len(weight)
    return torch.ops.aten.convolution_backward(grad_output, maps, weight, None, *others, wanted)


def covered(
    side: int, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[int, slice, slice]]:
    """The taps of an axis that meet the map: index, output pixels that they add to, and pixels that these read.

    Args:
        side: pixels of the map.
        size: pixels of the output.
        kernel: taps.
        stride, padding, dilation: of the convolution.
    """
    for index in range(kernel):
        offset = index * dilation - padding
        first, last = max(-(offset // stride), 0), min((side - 1 - offset) // stride, size - 1)
        if first <= last:
            read = slice(first * stride + offset, last * stride + offset + 1, stride)
            yield index, slice(first, last + 1), read


def covered_share(size: tuple[int, int], rate: int) -> float:
    """Share of all taps of all pixels of a map (h, w) that meet the map in an `AtrousConvolution`, not padding."""
    vertical, horizontal = [(side + 2 * max(side - rate, 0)) / (3 * side) for side in size]
    return vertical * horizontal


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype, but float32 instead of 16 bits."""
    return torch.promote_types(dtype, torch.float32)
