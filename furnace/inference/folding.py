"""Speed up networks for inference.

BatchNorm becomes part of the convolutions, and weights take the precision of autocast. On a CPU, weights take the
layout of oneDNN, and ReLU and the sums of residual blocks become part of the convolutions, too.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models import resnet as tv

from furnace.base_model.shortcuts import AtrousConv2d, JoiningConv2d, use_shortcuts
from furnace.engine.internals import has_packed_convolutions, pack_weight, packed_convolution
from furnace.engine.numerics import AMP_DTYPES

# In these modules only `bnN` uses the output of `convN`. Tracing finds more pairs, but changes PyTorch for all threads.
BLOCKS = (tv.BasicBlock, tv.Bottleneck)
PAIRED = (tv.ResNet, *BLOCKS)
CONVOLUTIONS = (nn.Conv2d, AtrousConv2d)  # their subclasses may compute something else
FOLDED = (*CONVOLUTIONS, JoiningConv2d)


def prepare_for_inference(network: nn.Module, amp: str) -> None:
    """Fold and fuse layers and convert weights, in place; the network is on its device, in eval mode, under `amp`."""
    for module in list(network.modules()):
        for convolution, norm in chained(module):
            fold(module, convolution, norm)
    if dtype := AMP_DTYPES[amp]:
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.to(dtype)
    if next(network.parameters()).device.type == "cpu":
        pack(network)
        use_shortcuts(network)  # what is packed is faster still


def chained(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of submodule names: only the second submodule uses the output of the first."""
    if is_chain(module):
        yield from pairwise(name for name, _ in module.named_children())
    elif isinstance(module, PAIRED):
        for number in (1, 2, 3):
            if hasattr(module, f"conv{number}"):
                yield f"conv{number}{last_of(getattr(module, f'conv{number}'))}", f"bn{number}"


def is_chain(module: nn.Module) -> bool:
    """True if a module passes its input through its submodules in order, each of them once."""
    return type(module).forward is nn.Sequential.forward and len(module) == len(list(module.named_children()))


def last_of(stem: nn.Module) -> str:
    """Name of the last layer of a stem, with a dot; "" if the stem is one layer."""
    return f".{len(stem) - 1}" if isinstance(stem, nn.Sequential) else ""


def fold(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a BatchNorm into the convolution before it; other layers stay unchanged."""
    first, second = module.get_submodule(convolution), module.get_submodule(norm)
    if type(first) in FOLDED and type(second) is nn.BatchNorm2d:
        module.set_submodule(convolution, fuse_conv_bn_eval(first, second))
        module.set_submodule(norm, nn.Identity())


def pack(network: nn.Module) -> None:
    """Replace residual blocks, and convolutions with or without ReLU, by packed ones, in place."""
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    for module in list(network.modules()):
        for convolution, activation in activated(module):
            first, second = module.get_submodule(convolution), module.get_submodule(activation)
            if packable(first) and type(second) is nn.ReLU and uses[id(first)] == 1:
                PackedConv2d.replace(first, relu=True)
                module.set_submodule(activation, nn.Identity())
        for name, child in list(module.named_children()):
            if type(child) in BLOCKS and all(packable(conv) and is_folded(norm) for conv, norm in pairs(child)):
                module.set_submodule(name, PackedBlock(child))
    for module in network.modules():
        if packable(module):
            PackedConv2d.replace(module)


def pairs(block: tv.BasicBlock | tv.Bottleneck) -> list[tuple[nn.Module, nn.Module]]:
    """The convolutions of a block, in order, each with the norm after it."""
    return [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3) if hasattr(block, f"conv{i}")]


def is_folded(norm: nn.Module) -> bool:
    """True if a norm has become part of the convolution before it."""
    return isinstance(norm, nn.Identity)


def packable(layer: nn.Module) -> bool:
    """True for a convolution that `PackedConv2d` can replace."""
    plain = type(layer) in CONVOLUTIONS and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and has_packed_convolutions(layer.weight)


def activated(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of submodule names: only the second submodule uses the output of the first; folded norms are left out."""
    if is_chain(module):
        yield from pairwise(name for name, layer in module.named_children() if not isinstance(layer, nn.Identity))
    elif isinstance(module, tv.ResNet) and is_folded(module.bn1):
        yield f"conv1{last_of(module.conv1)}", "relu"


class PackedConv2d(nn.Conv2d):
    """A convolution with its weight in oneDNN's layout; it adds another map, then applies ReLU, in the same pass.

    `forward(maps (B, C, H, W), added=None)` gives (B, O, h, w), in the precision of the weight, channels last. Later
    changes of the weight have no effect.
    """

    relu = False
    packed: tuple[torch.Size, Tensor] | None = None  # the layout depends on the shape of the maps

    @classmethod
    def replace(cls, convolution: nn.Conv2d, relu: bool = False) -> nn.Conv2d:
        """Make a convolution a packed one, in place, and return it."""
        convolution.__class__, convolution.relu = cls, relu
        return convolution

    def __getstate__(self) -> dict:
        """The state to copy or pickle; packed weights allow neither."""
        return self.__dict__ | {"packed": None}

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        maps = maps.to(self.weight.dtype, memory_format=torch.channels_last)
        packed = self.packed  # another thread may replace it
        if packed is None or packed[0] != maps.shape:
            packed = self.packed = maps.shape, pack_weight(self, maps.shape)
        return packed_convolution(self, packed[1], maps, added, self.relu)


class PackedBlock(nn.Module):
    """A residual block of torchvision whose BatchNorm is folded."""

    def __init__(self, block: tv.BasicBlock | tv.Bottleneck):
        super().__init__()
        self.convolutions = nn.ModuleList(PackedConv2d.replace(conv, relu=True) for conv, _ in pairs(block))
        self.downsample = block.downsample

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        *first, last = self.convolutions
        for convolution in first:
            maps = convolution(maps)
        return last(maps, shortcut)
