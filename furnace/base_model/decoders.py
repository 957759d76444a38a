"""Decoders from an encoder's maps to logits: our DeepLabv3+ (Chen et al., ECCV 2018), and two of a library."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from furnace.base_model.shortcuts import AtrousConv2d, JoiningConv2d
from furnace.utils.errors import UserError
from furnace.utils.names import Registry

# Functions of the channels and strides of an encoder's maps, the number of classes K, and the decoder's width. They
# return two modules: the head (tuple of maps to features) and the classifier (features to logits (B, K, h, w)).
DECODERS: Registry[Callable[[Sequence[int], Sequence[int], int, int], tuple[nn.Module, nn.Module]]] = Registry(
    "decoder"
)

ASPP_RATES = (6, 12, 18)
REDUCED_CHANNELS = 48
UPERNET_STRIDE, UPERNET_MAPS = 4, 3  # smallest stride and smallest number of maps
DPT_MAPS = 4
LIBRARY_DECODERS = ("upernet", "dpt")


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one BatchNorm over the four concatenated maps, the pooled branch added.

    `forward(features (B, in_channels, h, w))` gives (B, channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.map_convs = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 1, bias=False)]
            + [AtrousConv2d(in_channels, channels, rate) for rate in ASPP_RATES]
        )
        self.map_bn = nn.BatchNorm2d(channels * (1 + len(ASPP_RATES)))
        self.global_pooling_conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.global_pooling_bn = nn.BatchNorm2d(channels)
        self.red_conv = nn.Conv2d(channels * (1 + len(ASPP_RATES)), channels, 1, bias=False)
        self.pool_red_conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.red_bn = nn.BatchNorm2d(channels)
        self.activation = nn.LeakyReLU(0.01, inplace=True)  # in place: the input is not kept for the backward pass

    def forward(self, features: Tensor) -> Tensor:
        # The backward pass adds gradients in reverse order. The mean's has no channels-last layout: it comes last.
        pooled = self.global_pooling_conv(features.mean(dim=(2, 3), keepdim=True))
        pooled = self.pool_red_conv(self.activation(self.global_pooling_bn(pooled)))

        maps = torch.cat([conv(features) for conv in self.map_convs], dim=1)
        maps = self.red_conv(self.activation(self.map_bn(maps)))

        return self.activation(self.red_bn(maps + pooled))


class DeepLabHead(nn.Module):
    """ASPP on the coarsest map, upsampled and refined with the map of index `low`.

    `forward(maps)` gives (B, channels, h, w) at the size of this map.
    """

    def __init__(self, low_channels: int, high_channels: int, channels: int, low: int = 0):
        super().__init__()
        self.low = low
        self.aspp = ASPP(high_channels, channels)
        self.reduce = nn.Sequential(
            nn.Conv2d(low_channels, REDUCED_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(REDUCED_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.last_conv = nn.Sequential(
            JoiningConv2d(channels + REDUCED_CHANNELS, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        low = self.reduce(maps[self.low])
        return self.last_conv((self.aspp(maps[-1]), low))


@DECODERS.register("deeplabv3plus")
def deeplabv3plus(
    channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int
) -> tuple[nn.Module, nn.Module]:
    """DeepLabv3+ on the map of stride 4 (or the finest) and the coarsest map, with the published initialisation."""
    low = strides.index(4) if 4 in strides else 0
    head, classifier = DeepLabHead(channels[low], channels[-1], width, low), nn.Conv2d(width, num_classes, 1)
    for module in (*head.modules(), classifier):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return head, classifier


@DECODERS.register("upernet")
def upernet(
    channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int
) -> tuple[nn.Module, nn.Module]:
    """UPerNet on all maps of stride 4 or more. Raises UserError if there are too few."""
    from furnace.base_model.library_decoders import UPerNetHead

    used = [i for i, stride in enumerate(strides) if stride >= UPERNET_STRIDE]
    if len(used) < UPERNET_MAPS:
        raise UserError(misfit("upernet", f"needs {UPERNET_MAPS} maps of stride {UPERNET_STRIDE} or more", strides))
    return UPerNetHead(channels, used, width), nn.Conv2d(width, num_classes, 1)


@DECODERS.register("dpt")
def dpt(channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int) -> tuple[nn.Module, nn.Module]:
    """DPT on the four maps of a plain ViT. Raises UserError for other encoders."""
    from furnace.base_model.library_decoders import DPTHead

    if len(strides) != DPT_MAPS or len(set(strides)) > 1:
        raise UserError(misfit("dpt", f"needs {DPT_MAPS} maps of one stride, as from a plain ViT", strides))
    return DPTHead(channels, width), nn.Conv2d(width, num_classes, 1)


def misfit(decoder: str, needed: str, strides: Sequence[int]) -> str:
    """Message about an encoder that does not fit a decoder."""
    given = ", ".join(map(str, strides))
    return f"C.decoder = {decoder}: {needed}; C.backbone has strides {given}; set C.decoder = deeplabv3plus"
