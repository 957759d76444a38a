"""From settings to networks, losses and methods."""

import torch
from torch import nn

from furnace.base_model.network import IMAGENET, Network
from furnace.methods.cpcl import CPCL
from furnace.methods.cps import CPS
from furnace.methods.mean_teacher import MeanTeacher
from furnace.methods.method import Method
from furnace.methods.supervised import Supervised
from furnace.seg_opr.losses import MeanCrossEntropy, OhemCrossEntropy
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings

METHODS: dict[str, type[Method]] = {"cpcl": CPCL, "supervised": Supervised, "cps": CPS, "mean_teacher": MeanTeacher}


def build_network(C: Settings, pretrained: bool = True) -> Network:
    """The network that the settings describe; with `pretrained=False` its weights come from a snapshot later."""
    method = METHODS[C.method]
    network = Network(
        C.num_classes,
        C.backbone,
        C.pretrained_model if pretrained else None,
        stem="plain" if C.pretrained_model == IMAGENET else "deep",
        head_channels=C.head_channels,
        bn_eps=C.bn_eps,
        bn_momentum=C.bn_momentum,
        branches=method.branches,
    )
    for branch in network.branches[method.trained :]:
        branch.load_state_dict(network.branch1.state_dict())
    return network


def build_criterion(C: Settings, whole: WholeBatch = ALONE) -> nn.Module:
    """The supervised loss that the settings describe."""
    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight)
    if not C.ohem:
        return MeanCrossEntropy(IGNORE_INDEX, class_weight, whole)
    images = C.batch_size // C.accumulate  # that the criterion sees at a time, over all processes
    return OhemCrossEntropy(IGNORE_INDEX, C.ohem_thresh, C.ohem_min_kept * images, class_weight, whole)


def build_method(C: Settings, whole: WholeBatch = ALONE) -> Method:
    """The method that `C.method` names."""
    criterion = build_criterion(C, whole)
    unsupervised = {"unsup_weight": C.unsup_weight, "whole": whole, "warmup": C.unsup_warmup}
    arguments = {
        "supervised": {},
        "cps": unsupervised,
        "mean_teacher": {**unsupervised, "ema_decay": C.ema_decay},
        "cpcl": {
            **unsupervised,
            "pseudo_labels": C.pseudo_labels,
            "union_choice": C.union_choice,
            "reweight": C.reweight,
        },
    }
    return METHODS[C.method](criterion, **arguments[C.method])
