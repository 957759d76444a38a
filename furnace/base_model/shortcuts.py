"""Convolutions that save time on CPUs, if `use_shortcuts` is called; otherwise they are PyTorch's.

Values and gradients are the same up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from furnace.seg_opr.convolutions import AtrousConvolution, DepthwiseConvolution, covered_share
from furnace.seg_opr.interpolate import convolve_upsampled, upsample

COVERED_SHARE = 0.5  # up to this share of taps that meet the map, leaving out the others is faster
ENLARGED = 4  # from this growth of a map's pixels on, a convolution before the interpolation is faster


class AtrousConv2d(nn.Conv2d):
    """3x3 convolution with dilation `rate` and as much padding; the shortcut leaves out padding when it trains."""

    shortcut = False

    def __init__(self, in_channels: int, channels: int, rate: int):
        super().__init__(in_channels, channels, 3, padding=rate, dilation=rate, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        (rate, _), size = self.dilation, features.shape[-2:]
        if self.shortcut and self.training and covered_share(size, rate) <= COVERED_SHARE:
            return AtrousConvolution.apply(*in_one_precision(features, self.weight), rate)
        return super().forward(features)


class JoiningConv2d(nn.Conv2d):
    """3x3 convolution of two maps as one: (B, C, h, w) upsampled to (H, W), and (B, D, H, W).

    The shortcut convolves the first map before it is upsampled.
    """

    shortcut = False

    def __init__(self, in_channels: int, channels: int):
        super().__init__(in_channels, channels, 3, padding=1, bias=False)

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        small, large = maps
        size, channels = large.shape[-2:], small.shape[1]
        if self.shortcut and size.numel() >= ENLARGED * small.shape[-2:].numel():
            joined = F.conv2d(large, self.weight[:, channels:], self.bias, padding=1)
            joined += convolve_upsampled(small, self.weight[:, :channels], size)
            return joined
        return super().forward(torch.cat([upsample(small, size), large], dim=1))


class DepthwiseConv2d(nn.Conv2d):
    """The shortcut of a depthwise convolution."""

    def forward(self, maps: Tensor) -> Tensor:
        maps, weight = in_one_precision(maps, self.weight)
        bias = None if self.bias is None else self.bias.to(maps.dtype)
        return DepthwiseConvolution.apply(maps, weight, bias, self.stride, self.padding, self.dilation)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """The shortcut of a depthwise convolution of timm that pads as TensorFlow does."""

    def forward(self, maps: Tensor) -> Tensor:
        from timm.layers import pad_same

        return super().forward(pad_same(maps, self.kernel_size, self.stride, self.dilation))


def in_one_precision(maps: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and weight in the precision of autocast, if it is on."""
    device = maps.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else maps.dtype
    return maps.to(dtype), weight.to(dtype)


def use_shortcuts(network: nn.Module, use: bool = True) -> None:
    """Let the network's convolutions save time, or stop it.

    This is faster on CPUs; on GPUs it has not been measured. The size of the maps decides which form is used, so an
    exported network must not use it.
    """
    for module in network.modules():
        changed = hasattr(module, "before")
        if isinstance(module, (AtrousConv2d, JoiningConv2d)):
            module.shortcut = use
        elif changed and not use:
            module.__class__, module.dilation = module.before
            del module.before
        elif use and not changed and isinstance(module, nn.Conv2d):
            before = type(module), module.dilation
            if shortcut := depthwise_shortcut(module):
                module.__class__, module.before = shortcut, before
            elif type(module) is nn.Conv2d and module.kernel_size == (1, 1):
                # One tap has no dilation. But with one thread, in float32, PyTorch gives only dilated ones to oneDNN.
                module.dilation, module.before = (2, 2), before


def depthwise_shortcut(module: nn.Module) -> type[DepthwiseConv2d] | None:
    """The class to use for a depthwise convolution of PyTorch or timm; None for other modules."""
    kind = type(module)  # a subclass may compute something else
    same = kind.__name__ == "Conv2dSame" and kind.__module__.startswith("timm.")
    shortcut = DepthwiseConv2d if kind is nn.Conv2d else DepthwiseConv2dSame if same else None
    if shortcut is None or not module.groups == module.in_channels == module.out_channels > 1:
        return None
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    sides = zip(module.padding, module.dilation, module.kernel_size, strict=True)
    return shortcut if all(padding <= dilation * (kernel - 1) for padding, dilation, kernel in sides) else None
