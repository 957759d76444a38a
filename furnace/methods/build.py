"""From settings to networks, losses and methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from furnace import base_model, seg_opr
from furnace.methods.method import METHODS, Method
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from furnace.base_model.network import Network


def build_network(C: Settings, pretrained: bool = True, tensors: Mapping[str, Tensor] | None = None) -> Network:
    """The network that the settings describe.

    Args:
        C: checked settings.
        pretrained: begin with `C.pretrained_model`; otherwise the weights come from a snapshot later.
        tensors: the model of that snapshot, which tells the form of the encoders.

    Raises:
        UserError: two encoders for a method that trains one network, or weights that are not there or don't fit.
    """
    method = METHODS.find(C.method)
    names = [name.strip() for name in C.backbone.split(",")]
    if len(names) > 1 and len(names) != len(method.trained):
        raise UserError(f"C.backbone = {C.backbone}: method {C.method!r} trains {len(method.trained)} network(s)")
    network = base_model.Network(
        C.num_classes,
        names if len(names) > 1 else names[0],
        C.pretrained_model if pretrained else None,
        decoder=C.decoder,
        head_channels=C.head_channels,
        bn_eps=C.bn_eps,
        bn_momentum=C.bn_momentum,
        branches=method.branches(),
        tensors=tensors,
    )
    for teacher, student in method.averaged.items():
        network.branches[teacher - 1].load_state_dict(network.branches[student - 1].state_dict())
    return network


def build_criterion(C: Settings, whole: WholeBatch = ALONE) -> nn.Module:
    """The supervised loss that the settings describe."""
    import torch

    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight)
    if not C.ohem:
        return seg_opr.MeanCrossEntropy(IGNORE_INDEX, class_weight, whole)
    images = C.batch_size // C.accumulate  # that the criterion sees at a time, over all processes
    return seg_opr.OhemCrossEntropy(IGNORE_INDEX, C.ohem_thresh, C.ohem_min_kept * images, class_weight, whole)


def build_method(C: Settings, whole: WholeBatch = ALONE) -> Method:
    """The method that `C.method` names, with its settings."""
    method = METHODS.find(C.method)
    settings = method.Settings(**{name: getattr(C, name) for name in method.Settings.model_fields})
    return method(build_criterion(C, whole), settings, whole)
