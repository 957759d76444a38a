"""Networks with and without the shortcuts of a CPU: the same values, gradients and state."""

import copy

import pytest
import torch
from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.base_model.shortcuts import DepthwiseConv2d, use_shortcuts
from tests.golden_values import relative_error

ENCODERS = ["resnet18", "tf_efficientnet_lite0", "test_efficientnet", "test_convnext"]


def passed(network: Network, images: Tensor) -> list[Tensor]:
    """Logits, and the gradients of all parameters, in training mode."""
    logits = network.train()(images)
    factors = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).sin().view(logits.shape)
    return [logits.detach(), *torch.autograd.grad((logits * factors).sum(), list(network.parameters()))]


@pytest.mark.parametrize("backbone", ENCODERS)
def test_values_and_gradients_are_the_same(backbone: str):
    torch.manual_seed(0)
    plain = Network(3, backbone, head_channels=8, branches=1).double()
    short = copy.deepcopy(plain)
    use_shortcuts(short)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for layer in (*plain.modules(), *short.modules()):
        if "Drop" in type(layer).__name__:
            layer.drop_prob = 0.0
    for found, expected in zip(passed(short, images), passed(plain, images), strict=True):
        assert relative_error(found, expected) < 1e-7 or expected.abs().max() < 1e-9
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(short.state_dict()[name], value)


def test_depthwise_shortcuts_can_be_compiled_in_one_piece():
    torch.manual_seed(0)
    network = Network(3, "test_efficientnet", head_channels=8, branches=1).double()
    use_shortcuts(network)
    compiled, images = copy.deepcopy(network), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    compiled.branch1.compile(backend="aot_eager", fullgraph=True)
    for found, expected in zip(passed(compiled, images), passed(network, images), strict=True):
        assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("backbone", ENCODERS)
def test_shortcuts_can_be_taken_back(backbone: str):
    network = Network(3, backbone, head_channels=8, branches=1)
    before = [(type(layer), layer.extra_repr()) for layer in network.modules()]
    use_shortcuts(network)
    assert [(type(layer), layer.extra_repr()) for layer in network.modules()] != before
    use_shortcuts(network)  # twice is the same as once
    use_shortcuts(network, False)
    assert [(type(layer), layer.extra_repr()) for layer in network.modules()] == before


class Conv2d(nn.Conv2d):
    """A convolution of another library, which has the name of PyTorch's."""


@pytest.mark.parametrize(
    ("layer", "short"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), True),
        (nn.Conv2d(4, 4, 3, padding=2, groups=4), True),
        (nn.Conv2d(4, 4, 1, groups=4), True),
        (nn.Conv2d(4, 4, 1), False),
        (nn.Conv2d(4, 4, 3, padding=3, groups=4), False),  # the mirrored kernel would need negative padding
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4), False),
        (nn.Conv2d(4, 8, 3, groups=4), False),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(1, 1, 3), False),
        (Conv2d(4, 4, 3, groups=4), False),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), False),
    ],
    ids=str,
)
def test_only_depthwise_convolutions_with_zeros_around_have_a_shortcut(layer: nn.Module, short: bool):
    use_shortcuts(layer)
    assert isinstance(layer, DepthwiseConv2d) == short
