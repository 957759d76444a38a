"""Encoders by name, from images to a pyramid of maps: ours, listed without importing PyTorch, and all of timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from furnace import base_model
from furnace.utils.errors import UserError
from furnace.utils.names import LONGEST, SHOWN, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Encoder:
    """An entry of `ENCODERS`.

    Args:
        build: returns the module. Its `forward(images (B, 3, H, W))` gives a tuple of maps, the finest first; its
            `channels` and `strides` have one number per map. `build` takes a state dict, which selects the variant
            of an encoder with several variants, or None.
        mean, std: RGB normalisation of its training, for values in [0, 1].
        fits: returns True if it takes images of a height and a width; None: any size.
    """

    build: Callable[[Mapping[str, Tensor] | None], nn.Module]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fits: Callable[[int, int], bool] | None = None


class EncoderRegistry(Registry[Encoder]):
    """Our own encoders, then timm's; timm is imported only for names that are not ours."""

    slow = True

    def register(self, name: str) -> Callable[[Encoder], Encoder]:
        """As in `Registry`. Raises UserError unless the entry is an `Encoder`."""
        add = super().register(name)

        def add_encoder(entry: Encoder) -> Encoder:
            if not isinstance(entry, Encoder):
                raise UserError(f"encoder {name!r}: register Encoder(lambda tensors: ...), not {entry}")
            return add(entry)

        return add_encoder

    def knows(self, name: str) -> bool:
        return name in self or base_model.timm_encoders.is_name(name)

    def find(self, name: str) -> Encoder:
        if name in self or not self.knows(name):
            return super().find(name)
        return Encoder(*base_model.timm_encoders.entry(name))

    def unknown(self, name: str) -> str:
        close = [
            *get_close_matches(name, self, n=1),
            *get_close_matches(name, base_model.timm_encoders.names(), n=SHOWN),
        ]
        hint = f"did you mean {' or '.join(dict.fromkeys(close))}?" if close else "find names with --list-encoders WORD"
        return f"no {self.kind} {name[:LONGEST]!r}; {hint}"


ENCODERS = EncoderRegistry("encoder")


def build_encoder(name: str, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The named encoder with random weights, in the variant of `tensors`. Raises UserError with similar names."""
    return ENCODERS.find(name).build(tensors)


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
for _name in RESNETS:
    ENCODERS.register(_name)(Encoder(lambda tensors, name=_name: base_model.dilated_resnet(name, tensors)))
