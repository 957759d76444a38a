"""Build networks, losses and methods from settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from furnace import base_model, datasets, seg_opr
from furnace.methods.contract import check_networks
from furnace.methods.method import METHODS, Method
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.setting_types import NO_FILE
from furnace.utils.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from furnace.base_model.network import Network
    from furnace.datasets.dataset import TrainSet


def build_network(C: Settings, pretrained: bool = True, tensors: Mapping[str, Tensor] | None = None) -> Network:
    """The network that the settings describe.

    Args:
        C: checked settings.
        pretrained: begin with `C.pretrained_model`; otherwise the weights come from a snapshot later.
        tensors: the model of that snapshot, which selects the variants of the encoders.

    Raises:
        UserError: two encoders for a method that trains one network, or weights that are missing or don't fit.
    """
    method = described_method(C)
    names, files = encoders(C)
    network = base_model.Network(
        C.num_classes,
        names,
        files if pretrained else None,
        decoder=C.decoder,
        head_channels=C.head_channels,
        bn_eps=C.bn_eps,
        bn_momentum=C.bn_momentum,
        branches=method.branch_count,
        tensors=tensors,
    )
    for name, value in method.state(C.num_classes).items():
        try:
            network.register_buffer(name, value)
        except (KeyError, TypeError) as error:  # a name that the network has, or no tensor
            raise UserError(f"method {C.method!r}: its state {name!r} can't be kept ({error})") from error
    for teacher, student in method.averaged.items():
        network.branches[teacher - 1].load_state_dict(network.branches[student - 1].state_dict())
    return network


def encoders(C: Settings) -> tuple[list[str], list[str | None]]:
    """Names and weights of the encoders, one of each per branch.

    Raises:
        UserError: two encoders or files for a method that trains one network.
    """
    method = described_method(C)
    files = C.pretrained_model
    several = files is not None and "," in files and not Path(files).is_file()  # a path may contain commas
    given = {"backbone": C.backbone.split(","), "pretrained_model": files.split(",") if several else [files]}
    for name, values in given.items():
        if len(values) > 1 and len(values) != len(method.trained):
            told = f"C.{name} = {getattr(C, name)}"
            raise UserError(f"{told}: method {C.method!r} trains {len(method.trained)} network(s)")
    of_average = [student - 1 for _, student in sorted(method.averaged.items())]
    names, files = (
        values * method.branch_count if len(values) == 1 else values + [values[student] for student in of_average]
        for values in given.values()
    )
    return names, [None if file is None or file.strip().lower() in NO_FILE else file.strip() for file in files]


def build_criterion(C: Settings, whole: WholeBatch = ALONE) -> nn.Module:
    """The supervised loss that the settings describe."""
    import torch

    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight)
    if not C.ohem:
        return seg_opr.MeanCrossEntropy(IGNORE_INDEX, class_weight, whole)
    images = C.batch_size // C.accumulate  # per call of the criterion, over all processes
    return seg_opr.OhemCrossEntropy(IGNORE_INDEX, C.ohem_thresh, C.ohem_min_kept * images, class_weight, whole)


def build_method(C: Settings, whole: WholeBatch = ALONE) -> Method:
    """The method that `C.method` names, with its settings."""
    method = described_method(C)
    return type(method)(build_criterion(C, whole), method.settings, whole)


def build_data(C: Settings) -> TrainSet:
    """The training set of the settings, with the lists, views and streams of their method. Raises UserError."""
    method = described_method(C)
    views = method.labeled_view, method.teacher_view
    return datasets.build_train_set(C, method.unlabeled, *views, method.needs_valid, method.second_stream)


def described_method(C: Settings) -> Method:
    """The method with its settings and without a criterion, to query its networks, views and streams."""
    method = METHODS.find(C.method)
    described = method(None, method.Settings(**{name: getattr(C, name) for name in method.Settings.model_fields}))
    check_networks(C.method, described)
    return described
