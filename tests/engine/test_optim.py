"""Parameter groups, SGD and the poly policy against plain formulas."""

import pytest
import torch

from furnace.base_model.network import Network
from furnace.engine.optim import build_optimizer, parameter_groups, poly_lr


def test_only_weights_of_convolutions_decay():
    network = Network(3, "resnet18", head_channels=8)
    decayed, free = parameter_groups(network.branch1, 0.1)
    assert all(parameter.dim() == 4 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0)
    together = {id(parameter) for group in (decayed, free) for parameter in group["params"]}
    assert together == {id(parameter) for parameter in network.branch1.parameters()}


def test_poly_policy():
    assert [poly_lr(2.0, i, 4, 0.5) for i in range(4)] == pytest.approx([2, 2 * 0.75**0.5, 2 * 0.5**0.5, 2 * 0.25**0.5])


def test_sgd_with_momentum_and_decay():
    layer = torch.nn.Conv2d(1, 1, 1).double()
    optimizer = build_optimizer(layer, lr=0.1, momentum=0.9, weight_decay=0.01)
    weight, bias = layer.weight.item(), layer.bias.item()
    speed_weight = speed_bias = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)).sum().backward()
        optimizer.step()
        speed_weight = 0.9 * speed_weight + 2 + 0.01 * weight
        speed_bias = 0.9 * speed_bias + 1
        weight, bias = weight - 0.1 * speed_weight, bias - 0.1 * speed_bias
    assert layer.weight.item() == pytest.approx(weight, rel=1e-12)
    assert layer.bias.item() == pytest.approx(bias, rel=1e-12)
