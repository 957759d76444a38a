"""Parameter groups, SGD and the poly policy against plain formulas."""

import pytest
import torch
from torchvision.models import vit_b_16

from furnace.base_model.network import Network
from furnace.engine.optim import build_optimizer, parameter_groups, poly_lr, set_learning_rate
from furnace.utils.errors import UserError


def test_only_weights_of_convolutions_decay():
    network = Network(3, "resnet18", head_channels=8)
    groups = parameter_groups(network.branch1, 0.1, lr_backbone=0.5)
    assert [group["weight_decay"] for group in groups] == [0.1, 0, 0.1, 0]
    assert [group["lr_factor"] for group in groups] == [0.5, 0.5, 1, 1]
    for group in groups:
        assert {parameter.dim() for parameter in group["params"]} == ({4} if group["weight_decay"] else {1})
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in network.branch1.parameters())
    encoder = {id(parameter) for parameter in network.branch1.backbone.parameters()}
    assert encoder == {id(parameter) for group in groups[:2] for parameter in group["params"]}


def test_biases_tokens_positions_and_embeddings_do_not_decay():
    with torch.device("meta"):
        model = vit_b_16()
        model.words = torch.nn.Embedding(3, 4)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = [names[id(p)] for group in parameter_groups(model, 0.1)[::2] for p in group["params"]]
    assert "conv_proj.weight" in decayed and "heads.head.weight" in decayed
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in decayed
    assert not [n for n in decayed if "bias" in n or n in ("class_token", "encoder.pos_embedding", "words.weight")]


def test_the_encoder_has_its_own_learning_rate():
    branch = Network(3, "resnet18", head_channels=8).branch1
    optimizer = build_optimizer(branch, "adamw", lr=0.1, lr_backbone=0.25)
    set_learning_rate(optimizer, 0.04)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(branch.backbone.conv1[0].weight)] == 0.01
    assert rates[id(branch.classifier.weight)] == 0.04
    assert isinstance(optimizer, torch.optim.AdamW)


def test_an_unknown_optimizer_is_named_with_the_closest():
    with pytest.raises(UserError, match="no optimizer 'adam'; did you mean adamw"):
        build_optimizer(torch.nn.Linear(1, 1), "adam", lr=0.1)


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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_exists_before_the_first_step(momentum: float):
    """If the first step is skipped, the momentum of a fused kernel would be undefined."""
    layer = torch.nn.Conv2d(1, 2, 1)
    state = build_optimizer(layer, lr=0.1, momentum=momentum).state
    assert len(state) == (2 if momentum else 0)
    assert all(not slots["momentum_buffer"].any() for slots in state.values())


def test_adamw_has_the_weight_decay_of_the_settings():
    optimizer = build_optimizer(torch.nn.Conv2d(1, 2, 1), "adamw", lr=0.1, weight_decay=0.3)
    assert [(group["weight_decay"], group["lr"]) for group in optimizer.param_groups if group["params"]] == [
        (0.3, 0.1),
        (0, 0.1),
    ]
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 0, 1, 1]
