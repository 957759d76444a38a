"""DeepLabv3+ (Chen et al., ECCV 2018): atrous spatial pyramid pooling, decoder and classifier."""

import torch
from torch import Tensor, nn

from furnace.base_model.resnet import DilatedResNet
from furnace.seg_opr.interpolate import upsample

ASPP_RATES = (6, 12, 18)
REDUCED_CHANNELS = 48


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one BatchNorm over the four concatenated maps, the pooled branch added.

    `forward(features (B, in_channels, h, w))` gives (B, channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.map_convs = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 1, bias=False)]
            + [nn.Conv2d(in_channels, channels, 3, padding=r, dilation=r, bias=False) for r in ASPP_RATES]
        )
        self.map_bn = nn.BatchNorm2d(channels * (1 + len(ASPP_RATES)))
        self.global_pooling_conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.global_pooling_bn = nn.BatchNorm2d(channels)
        self.red_conv = nn.Conv2d(channels * (1 + len(ASPP_RATES)), channels, 1, bias=False)
        self.pool_red_conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.red_bn = nn.BatchNorm2d(channels)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, features: Tensor) -> Tensor:
        maps = torch.cat([conv(features) for conv in self.map_convs], dim=1)
        maps = self.red_conv(self.activation(self.map_bn(maps)))

        pooled = self.global_pooling_conv(features.mean(dim=(2, 3), keepdim=True))
        pooled = self.pool_red_conv(self.activation(self.global_pooling_bn(pooled)))

        return self.activation(self.red_bn(maps + pooled))


class Decoder(nn.Module):
    """ASPP on the features of layer 4, upsampled and refined with those of layer 1.

    `forward(low (B, low_channels, h, w), high (B, high_channels, h/4, w/4))` gives (B, channels, h, w).
    """

    def __init__(self, low_channels: int, high_channels: int, channels: int):
        super().__init__()
        self.aspp = ASPP(high_channels, channels)
        self.reduce = nn.Sequential(
            nn.Conv2d(low_channels, REDUCED_CHANNELS, 1, bias=False), nn.BatchNorm2d(REDUCED_CHANNELS), nn.ReLU()
        )
        self.last_conv = nn.Sequential(
            nn.Conv2d(channels + REDUCED_CHANNELS, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.reduce(low)
        high = upsample(self.aspp(high), low.shape[-2:])
        return self.last_conv(torch.cat([high, low], dim=1))


class DeepLabV3Plus(nn.Module):
    """One segmentation network: backbone, decoder and 1x1 classifier.

    `forward(images (B, 3, H, W))` gives logits (B, num_classes, h, w) at a quarter of the resolution;
    `upsample(logits, (H, W))` brings them to that of the images.
    """

    def __init__(self, num_classes: int, backbone: str, stem: str = "deep", head_channels: int = 256):
        super().__init__()
        self.backbone = DilatedResNet(backbone, stem)
        self.head = Decoder(self.backbone.low_channels, self.backbone.high_channels, head_channels)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(self.head(*self.backbone(images)))
        # Under autocast the losses still work in float32; the map is small here.
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
