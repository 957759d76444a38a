"""Dilated ResNets, based on torchvision's.

He et al., CVPR 2016; the deep stems are those of ResNet-C, He et al., CVPR 2019.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import resnet as tv

BLOCKS = {
    "resnet18": (tv.BasicBlock, (2, 2, 2, 2)),
    "resnet34": (tv.BasicBlock, (3, 4, 6, 3)),
    "resnet50": (tv.Bottleneck, (3, 4, 6, 3)),
    "resnet101": (tv.Bottleneck, (3, 4, 23, 3)),
    "resnet152": (tv.Bottleneck, (3, 8, 36, 3)),
}
# Channels of the three 3x3 convolutions of a deep stem; stem "plain" is one 7x7 convolution with 64 channels.
DEEP_STEMS = {"deep": (64, 64, 128), "light": (32, 32, 64)}
LAYER4_DILATIONS = (2, 4, 8)


class DilatedResNet(tv.ResNet):
    """torchvision's ResNet without its classifier, at output stride 16; it returns the maps of layers 1 to 4.

    Args:
        name: one of `BLOCKS`.
        stem: "deep" (the `v1c` weights of CPS and CPCL), "light" (mmsegmentation, Gluon, timm's `resnet50c`) or "plain"
            (torchvision).
    """

    strides = (4, 8, 16, 16)

    def __init__(self, name: str, stem: str = "deep"):
        block, depths = BLOCKS[name]
        super().__init__(block, depths)
        del self.fc, self.avgpool
        if stem in DEEP_STEMS:
            channels = DEEP_STEMS[stem]
            self.conv1, self.bn1 = deep_stem(channels), nn.BatchNorm2d(channels[-1])
            if channels[-1] != 64:
                self.layer1 = first_layer(block, depths[0], channels[-1])
        dilate(self.layer4, LAYER4_DILATIONS)
        draw_weights(self)
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return tuple(maps)

    def stem(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the input of layer 1, at stride 4."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))


def draw_weights(network: nn.Module) -> None:
    """Draw the weights of all convolutions with PyTorch's default, as published (torchvision does not)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def dilated_resnet(name: str, tensors: Mapping[str, Tensor] | None = None) -> DilatedResNet:
    """The named ResNet with the stem of `tensors`; a deep stem without `tensors`."""
    return DilatedResNet(name, stem_of(tensors) if tensors else "deep")


def stem_of(tensors: Mapping[str, Tensor]) -> str:
    """The stem type of a ResNet's state dict; "deep" if the file has no stem."""
    if "conv1.weight" in tensors:
        return "plain"
    first = tensors.get("conv1.0.weight")
    return "light" if first is not None and len(first) == DEEP_STEMS["light"][0] else "deep"


def deep_stem(channels: tuple[int, int, int]) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2; the last BatchNorm is the encoder's `bn1`."""
    first, second, third = channels
    return nn.Sequential(
        nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, third, 3, padding=1, bias=False),
    )


def first_layer(block: type[tv.BasicBlock | tv.Bottleneck], depth: int, in_channels: int) -> nn.Sequential:
    """Layer 1 for a stem whose output does not have 64 channels."""
    channels = 64 * block.expansion
    shortcut = nn.Sequential(tv.conv1x1(in_channels, channels), nn.BatchNorm2d(channels))
    return nn.Sequential(block(in_channels, 64, downsample=shortcut), *(block(channels, 64) for _ in range(1, depth)))


def dilate(layer: nn.Sequential, dilations: tuple[int, ...]) -> None:
    """Replace the stride of `layer` by dilation: block i has stride 1, its 3x3 convolutions dilation `dilations[i]`."""
    for block, dilation in zip(layer, dilations, strict=False):
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
