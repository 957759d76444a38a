"""From settings to networks, losses and methods."""

import torch
from torch import nn

from furnace.base_model.network import IMAGENET, Network
from furnace.methods.cpcl import CPCL
from furnace.methods.method import Method
from furnace.methods.supervised import Supervised
from furnace.seg_opr.losses import IGNORE_INDEX, MeanCrossEntropy, OhemCrossEntropy
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.config import Settings

METHODS = {"cpcl": CPCL, "supervised": Supervised}


def build_network(C: Settings, pretrained: bool = True) -> Network:
    """The network that the settings describe; with `pretrained=False` its weights come from a snapshot later."""
    return Network(
        C.num_classes,
        C.backbone,
        C.pretrained_model if pretrained else None,
        stem="plain" if C.pretrained_model == IMAGENET else "deep",
        head_channels=C.head_channels,
        bn_eps=C.bn_eps,
        bn_momentum=C.bn_momentum,
        branches=METHODS[C.method].branches,
    )


def build_criterion(C: Settings, whole: WholeBatch = ALONE) -> nn.Module:
    """The supervised loss that the settings describe."""
    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight)
    if not C.ohem:
        return MeanCrossEntropy(IGNORE_INDEX, class_weight, whole)
    return OhemCrossEntropy(IGNORE_INDEX, C.ohem_thresh, C.ohem_min_kept * C.batch_size, class_weight, whole)


def build_method(C: Settings, whole: WholeBatch = ALONE) -> Method:
    """The method that `C.method` names."""
    criterion = build_criterion(C, whole)
    if C.method == "supervised":
        return Supervised(criterion)
    return CPCL(criterion, C.unsup_weight, whole)
