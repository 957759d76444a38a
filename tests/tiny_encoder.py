"""A registered encoder of a few thousand parameters, which makes tests of training and evaluation fast."""

from torch import Tensor, nn

from furnace.base_model.encoders import ENCODERS, Encoder

TINY = "tiny"
WIDTHS, STRIDES = (8, 12, 16, 16), (4, 8, 16, 16)


class TinyEncoder(nn.Module):
    """Four maps at the strides of our ResNets; `forward(images (B, 3, H, W))`."""

    channels, strides = WIDTHS, STRIDES

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(layer(3, 8, 2), nn.MaxPool2d(3, 2, 1))
        inputs, steps = (8, *WIDTHS[:-1]), (1, 2, 2, 1)
        self.stages = nn.ModuleList(layer(*each) for each in zip(inputs, WIDTHS, steps, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])


def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


ENCODERS.register(TINY)(Encoder(lambda tensors: TinyEncoder()))
