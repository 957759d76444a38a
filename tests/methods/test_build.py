"""Networks, losses and methods are built as the settings say."""

import pytest
import torch
from torch import nn

from furnace.base_model import network as module
from furnace.base_model.decoders import DECODERS
from furnace.methods.build import build_criterion, build_method, build_network
from furnace.seg_opr.losses import MeanCrossEntropy, OhemCrossEntropy
from furnace.seg_opr.whole_batch import WholeBatch
from furnace.utils.errors import UserError


def test_networks_have_encoders_and_norms_of_the_settings(make_settings) -> None:
    C = make_settings(backbone="resnet18, resnet34", num_classes=5, head_channels=8, bn_eps=0.003, bn_momentum=0.2)
    with torch.device("meta"):
        network = build_network(C)
    assert [len(branch.backbone.layer3) for branch in network.branches] == [2, 6]
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.003, 0.2)}
    assert {(b.classifier.out_channels, b.classifier.in_channels) for b in network.branches} == {(5, 8)}


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_of_the_settings_are_read_unless_a_snapshot_has_its_own(make_settings, pretrained, monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_encoder_weights", lambda *asked: read.append(asked) or ({}, "random"))
    C = make_settings(head_channels=8, backbone="resnet18").updated(pretrained_model="imagenet")
    stem = torch.zeros(64, 3, 7, 7)
    with torch.device("meta"):
        network = build_network(C, *(() if pretrained else (False, {"branch1.backbone.conv1.weight": stem})))
    assert read == [("resnet18", "imagenet" if pretrained else None)] * 2
    assert isinstance(network.branch1.backbone.conv1, nn.Sequential if pretrained else nn.Conv2d)


def test_three_encoders_for_two_networks_are_refused(make_settings) -> None:
    C = make_settings(method="cps", backbone="resnet18,resnet34,resnet18")
    with pytest.raises(UserError, match=r"C\.backbone = resnet18,resnet34,resnet18: .* trains 2 network"):
        build_network(C)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("ohem", [True, False])
def test_the_criterion_has_its_settings(make_settings, ohem: bool, weights: list[float] | None) -> None:
    """OHEM's minimum number of pixels counts per image of a part."""
    C = make_settings(
        num_classes=3, ohem=ohem, ohem_thresh=0.6, ohem_min_kept=50, batch_size=4, accumulate=2, class_weight=weights
    )
    whole = WholeBatch()
    criterion = build_criterion(C, whole)
    assert type(criterion) is (OhemCrossEntropy if ohem else MeanCrossEntropy)
    assert criterion.ignore_index == 255 and criterion.whole is whole
    assert (criterion.class_weight is None) if weights is None else (criterion.class_weight.tolist() == weights)
    if ohem:
        assert (criterion.thresh, criterion.min_kept) == (0.6, 100) and isinstance(criterion.min_kept, int)


def test_a_method_and_its_criterion_sum_over_the_same_processes(make_settings) -> None:
    whole = WholeBatch()
    method = build_method(make_settings(unsup_weight=1.7), whole)
    assert method.whole is whole and method.criterion.whole is whole
    assert method.settings.unsup_weight == 1.7


@pytest.mark.usefixtures("registries")
def test_a_custom_decoder_is_used(make_settings) -> None:
    class Coarsest(nn.Module):
        def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return maps[-1]

    @DECODERS.register("narrow")
    def build(channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int, width: int) -> tuple:
        return Coarsest(), nn.Conv2d(channels[-1], num_classes, 1)

    with torch.device("meta"):
        network = build_network(make_settings(decoder="narrow"))
    assert all(isinstance(branch.head, Coarsest) for branch in network.branches)
