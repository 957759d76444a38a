"""Recognize the origin of encoder weights by names and shapes of tensors, and rename the tensors to our names."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from furnace.base_model.resnet import BLOCKS, DEEP_STEMS

NOT_ENCODER = re.compile(r"(fc|decode_head|auxiliary_head|classifier|head)\.")
# Module names of other programs' stems: theirs to ours.
SEMSEG = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}
MMSEG = {f"stem.{theirs}": ours for theirs, ours in zip((0, 1, 3, 4, 6, 7), SEMSEG.values(), strict=True)}


class Recognized(NamedTuple):
    """Tensors under our names, and a description of the file's origin."""

    tensors: dict[str, Tensor]
    description: str


def recognize(tensors: Mapping[str, Tensor]) -> Recognized:
    """Rename an encoder's tensors and remove classifiers; unknown names stay."""
    found = {name: value for name, value in tensors.items() if not NOT_ENCODER.match(name)}
    if "stem.0.weight" in found:
        return Recognized(renamed(found, MMSEG), "mmsegmentation v1c, deep stem 32-32-64")
    if "conv2.weight" in found:
        return Recognized(renamed(found, SEMSEG), "semseg v2, deep stem 64-64-128")
    if "conv1.0.weight" in found:
        light = len(found["conv1.0.weight"]) == DEEP_STEMS["light"][0]
        return Recognized(found, "timm or Gluon C, deep stem 32-32-64" if light else "v1c, deep stem 64-64-128")
    if "conv1.weight" in found:
        return Recognized(found, "torchvision, plain stem")
    return Recognized(found, "unknown origin")


def renamed(tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with renamed modules."""
    split = {name: name.rpartition(".") for name in tensors}
    return {f"{modules.get(module, module)}.{part}": tensors[name] for name, (module, _, part) in split.items()}


def depth_name(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the ResNet whose blocks match a state dict; None if no ResNet matches."""
    blocks = [len({m[1] for name in tensors if (m := re.match(rf"layer{i}\.(\d+)\.", name))}) for i in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in tensors
    for name, (block, depths) in BLOCKS.items():
        if list(depths) == blocks and (block.expansion > 1) == bottleneck:
            return name
    return None
