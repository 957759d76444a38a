"""Encoders by name: images to a pyramid of maps. Their names and normalisation are known without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from furnace import base_model
from furnace.utils.names import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Encoder:
    """An entry of `ENCODERS`.

    Args:
        build: gives the module, whose `forward(images (B, 3, H, W))` gives a tuple of maps, the finest first, and whose
            `channels` and `strides` are those of each map. It takes a state dict, or None: of an encoder in several
            forms the module has that of the tensors.
        mean, std: RGB normalisation that it was trained with, of values in [0, 1].
    """

    build: Callable[[Mapping[str, Tensor] | None], nn.Module]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


ENCODERS: Registry[Encoder] = Registry("encoder")


def build_encoder(name: str, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The encoder of a name, with random weights, in the form of `tensors`. Raises UserError with the closest names."""
    return ENCODERS.find(name).build(tensors)


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
for _name in RESNETS:
    ENCODERS.register(_name)(Encoder(lambda tensors, name=_name: base_model.dilated_resnet(name, tensors)))
