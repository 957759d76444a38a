"""Networks prepared for inference give the same scores as before."""

import pytest
import torch
from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.base_model.resnet import DilatedResNet
from furnace.inference.folding import prepare_for_inference


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
