"""Encoders by name: images to a pyramid of maps; ours, known without PyTorch, and every name that timm knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING

from furnace import base_model
from furnace.utils.names import LONGEST, SHOWN, Registry

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
        fits: tells whether it takes images of a height and a width; None: any.
    """

    build: Callable[[Mapping[str, Tensor] | None], nn.Module]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fits: Callable[[int, int], bool] | None = None


class EncoderRegistry(Registry[Encoder]):
    """Our own entries, and behind them timm's, which is imported only for names that are not ours."""

    def knows(self, name: str) -> bool:
        return name in self or timm_encoders().is_name(name)

    def find(self, name: str) -> Encoder:
        if name in self or not self.knows(name):
            return super().find(name)
        return timm_encoders().timm_encoder(name)

    def unknown(self, name: str) -> str:
        close = [*get_close_matches(name, self, n=1), *get_close_matches(name, timm_encoders().names(), n=SHOWN)]
        hint = f"did you mean {' or '.join(dict.fromkeys(close))}?" if close else "--list-encoders WORD finds one"
        return f"no {self.kind} {name[:LONGEST]!r}; {hint}"


def timm_encoders() -> ModuleType:
    """The module behind the registry, which needs this one."""
    from furnace.base_model import timm_encoders

    return timm_encoders


ENCODERS = EncoderRegistry("encoder")


def build_encoder(name: str, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The encoder of a name, with random weights, in the form of `tensors`. Raises UserError with the closest names."""
    return ENCODERS.find(name).build(tensors)


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
for _name in RESNETS:
    ENCODERS.register(_name)(Encoder(lambda tensors, name=_name: base_model.dilated_resnet(name, tensors)))
