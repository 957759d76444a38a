"""Dilated ResNet backbones with the deep stem, on torchvision's ResNet.

He et al., CVPR 2016; the stem is that of ResNet-C, He et al., CVPR 2019.
"""

from torch import Tensor, nn
from torchvision.models import resnet as tv

BLOCKS = {
    "resnet18": (tv.BasicBlock, (2, 2, 2, 2)),
    "resnet34": (tv.BasicBlock, (3, 4, 6, 3)),
    "resnet50": (tv.Bottleneck, (3, 4, 6, 3)),
    "resnet101": (tv.Bottleneck, (3, 4, 23, 3)),
    "resnet152": (tv.Bottleneck, (3, 8, 36, 3)),
}
BACKBONES = tuple(BLOCKS)
STEM_CHANNELS = 128
LAYER4_DILATIONS = (2, 4, 8)


class DilatedResNet(tv.ResNet):
    """torchvision's ResNet without its classifier, at output stride 16.

    Args:
        name: one of `BACKBONES`.
        stem: "deep" (three 3x3 convolutions, 64-64-128, the `v1c` weights) or "plain" (one 7x7
            convolution, torchvision's ImageNet weights).

    `forward(images (B, 3, H, W))` gives the features of layer 1, (B, low_channels, H/4, W/4), and of
    layer 4, (B, high_channels, H/16, W/16).
    """

    def __init__(self, name: str, stem: str = "deep"):
        block, depths = BLOCKS[name]
        super().__init__(block, depths)
        del self.fc, self.avgpool
        if stem == "deep":
            self.conv1 = deep_stem(STEM_CHANNELS)
            self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
            self.inplanes = STEM_CHANNELS
            self.layer1 = self._make_layer(block, 64, depths[0])
        dilate(self.layer4, LAYER4_DILATIONS)
        self.low_channels = 64 * block.expansion
        self.high_channels = 512 * block.expansion

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        low = self.layer1(x)
        return low, self.layer4(self.layer3(self.layer2(low)))


def deep_stem(channels: int) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2; the last BatchNorm is the backbone's `bn1`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, channels, 3, padding=1, bias=False),
    )


def dilate(layer: nn.Sequential, dilations: tuple[int, ...]) -> None:
    """Turn the stride of `layer` into dilation: block i gets stride 1, its 3x3 convolutions dilation `dilations[i]`."""
    for block, dilation in zip(layer, dilations, strict=False):
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
