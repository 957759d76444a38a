"""Decoders of segmentation_models_pytorch (Iakubovskii, github.com/qubvel-org/segmentation_models.pytorch)."""

from collections.abc import Sequence

import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

DPT_STRIDE = 16
DPT_UPSAMPLING = 8  # output size / map size
DPT_WIDTHS = (1, 2, 4, 4)  # channels of the projected maps / width; as published 256, 512, 1024, 1024


class UPerNetHead(nn.Module):
    """UPerNet (Xiao et al., ECCV 2018): `forward(maps)` gives (B, width, h, w) at the size of the first used map."""

    def __init__(self, channels: Sequence[int], used: Sequence[int], width: int):
        super().__init__()
        self.used = list(used)
        # The library's encoders have two more maps first, of strides 1 and 2; its decoder ignores them.
        self.decoder = UPerNetDecoder([0, 0, *(channels[i] for i in used)], len(self.used) + 1, width)
        initialize_decoder(self.decoder)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.decoder([maps[0], maps[0], *(maps[i] for i in self.used)])


class DPTHead(nn.Module):
    """DPT (Ranftl et al., ICCV 2021) on four maps of one stride: `forward(maps)` gives (B, width, 8h, 8w)."""

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        # The decoder's factors are defined for maps of stride 16; patches of 14 pixels use the same factors.
        strides, widths = [DPT_STRIDE] * len(channels), [factor * width for factor in DPT_WIDTHS]
        self.decoder = DPTDecoder(channels, strides, False, "ignore", widths, width)
        initialize_decoder(self.decoder)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        height, width = maps[0].shape[-2:]
        # The decoder halves and doubles the maps, which preserves only even sides.
        even = [F.pad(one, (0, width % 2, 0, height % 2), mode="replicate") for one in maps]
        features = self.decoder(even, [None] * len(even))
        return features[..., : DPT_UPSAMPLING * height, : DPT_UPSAMPLING * width]
