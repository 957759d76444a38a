"""Networks prepared for inference give the same scores as before."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet as tv

from furnace.base_model.network import Network
from furnace.base_model.resnet import DilatedResNet
from furnace.base_model.shortcuts import DepthwiseConv2d
from furnace.inference import folding
from furnace.inference.folding import PackedBlock, PackedConv2d, prepare_for_inference


@pytest.fixture
def network() -> Network:
    """A network in float64 with statistics as after training."""
    torch.manual_seed(0)
    network = Network(5, "resnet18", head_channels=16).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, least, most in (
                (layer.running_mean, -1, 1),
                (layer.running_var, 0.5, 2),
                (layer.weight, 0.5, 2),
            ):
                nn.init.uniform_(values, least, most)
    return network


def test_folding_keeps_the_scores_and_removes_all_but_the_norms_of_joined_maps(network: Network):
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    before = [network(images, branch) for branch in (1, 2)]
    prepare_for_inference(network, "off")
    for branch, expected in enumerate(before, 1):
        torch.testing.assert_close(network(images, branch), expected, rtol=1e-9, atol=1e-9)
    left = {name for name, layer in network.branch1.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert left == {"head.aspp.map_bn", "head.aspp.red_bn", "head.aspp.global_pooling_bn"}


@pytest.mark.parametrize("stem", ["deep", "light", "plain"])
def test_every_stem_and_block_of_our_encoders_is_folded(stem: str):
    encoder = DilatedResNet("resnet50", stem).eval()
    prepare_for_inference(encoder, "off")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in encoder.modules())


class Skipping(nn.Sequential):
    """A sequence whose convolution has two users."""

    def forward(self, x: Tensor) -> Tensor:
        x = self[0](x)
        return self[1](x) + x


@torch.inference_mode()
@pytest.mark.parametrize("second", [nn.BatchNorm2d(4), nn.ReLU()], ids=str)
def test_sequences_that_are_no_chains_stay_unchanged(second: nn.Module):
    torch.manual_seed(0)
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 4, 1), relu, nn.Conv2d(4, 4, 1), relu)
    for module in (Skipping(nn.Conv2d(3, 4, 1), second).eval(), twice):
        images = torch.randn(2, 3, 5, 5)
        before = module(images)
        prepare_for_inference(module, "off")
        torch.testing.assert_close(module(images), before, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_blocks_with_norms_that_are_not_folded_stay_unchanged():
    encoder = nn.SyncBatchNorm.convert_sync_batchnorm(trained("resnet18")).eval()
    prepared, images = copy.deepcopy(encoder), torch.randn(1, 3, 48, 48)
    prepare_for_inference(prepared, "off")
    torch.testing.assert_close(prepared(images), encoder(images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_convolution_with_a_second_place_gets_no_activation():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
            self.second = self.first[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x)

    torch.manual_seed(0)
    module, images = Twice(), torch.randn(1, 3, 5, 5)
    before = module(images)
    prepare_for_inference(module, "off")
    torch.testing.assert_close(module(images), before, rtol=1e-5, atol=1e-5)


class Other(nn.Module):
    """A module that also uses the output of the convolution without the norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.layers(self.bn1(x) + x)


def test_layers_that_are_not_known_to_be_a_pair_stay_unchanged():
    torch.manual_seed(0)
    module = Other().eval()
    images = torch.rand(1, 3, 4, 4)
    before = module(images)
    prepare_for_inference(module, "off")
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) == 2
    assert torch.equal(module(images), before)


def test_convolution_weights_take_the_precision_of_autocast_and_norms_stay(network: Network):
    network.float()
    images = torch.randn(1, 3, 48, 64)
    with torch.autocast("cpu", torch.bfloat16):
        before = network(images)
        prepare_for_inference(network, "bf16")
        after = network(images)
    assert {layer.weight.dtype for layer in network.modules() if isinstance(layer, nn.Conv2d)} == {torch.bfloat16}
    assert network.branch1.head.aspp.map_bn.weight.dtype == torch.float32
    assert (before - after).abs().max() < 0.05 * before.abs().max()


def trained(backbone: str, **options: object) -> Network:
    """A network whose BatchNorm has statistics as after training, in eval mode."""
    torch.manual_seed(0)
    network = Network(5, backbone, head_channels=16, branches=1, **options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "test_efficientnet", "test_vit"])
def test_packed_layers_keep_the_scores_for_inputs_of_changing_shape(backbone: str):
    network = trained(backbone)
    prepared = copy.deepcopy(network)
    prepare_for_inference(prepared, "off")
    for shape in ((2, 3, 64, 96), (1, 3, 64, 96), (2, 3, 96, 64), (2, 3, 64, 96)):
        images = torch.randn(shape)
        torch.testing.assert_close(prepared(images), network(images), rtol=1e-4, atol=1e-4)
    plain = {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, tv.BasicBlock, tv.Bottleneck}
    assert not any(isinstance(module, DepthwiseConv2d) for module in prepared.modules())
    if backbone.startswith("resnet"):
        left = {type(module) for module in prepared.branch1.backbone.modules()}
        assert not left & plain and {PackedBlock, PackedConv2d} <= left


@torch.inference_mode()
def test_packed_layers_compute_in_bfloat16_what_plain_ones_do(monkeypatch: pytest.MonkeyPatch):
    images, network = torch.randn(2, 3, 64, 96), trained("resnet18")
    packed, plain = copy.deepcopy(network), copy.deepcopy(network)
    prepare_for_inference(packed, "bf16")
    monkeypatch.setattr(folding, "has_packed_convolutions", lambda weight: False)
    prepare_for_inference(plain, "bf16")
    assert not any(isinstance(module, PackedConv2d) for module in plain.modules())
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(scores(images) - expected).abs().mean() for scores in (packed, plain)]
    assert errors[0] < 1.2 * errors[1] < 0.05 * expected.abs().mean()


@torch.inference_mode()
def test_a_used_network_with_packed_layers_can_be_copied():
    network, images = trained("resnet18"), torch.randn(1, 3, 48, 48)
    prepare_for_inference(network, "off")
    scores = network(images)
    for made in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(made(images), scores)


@torch.inference_mode()
def test_a_residual_block_does_not_change_its_input():
    block = tv.BasicBlock(16, 16).eval()
    sequence = nn.Sequential(block)
    prepare_for_inference(sequence, "off")
    maps = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    before = maps.clone()
    assert isinstance(sequence[0], PackedBlock)
    sequence(maps)
    assert torch.equal(maps, before)
