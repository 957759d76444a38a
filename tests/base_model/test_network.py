"""The two-branch network against the golden values; its branches share nothing."""

import pytest
import torch
from torch import nn

from furnace.base_model.network import Network
from tests.golden_values import fill_deterministic, load_arrays, load_json, relative_error

GOLDEN_NETWORKS = {"city_r50": (19, "resnet50"), "voc_r50": (21, "resnet50"), "voc_r101": (21, "resnet101")}


def small_network(**changes) -> Network:
    """A ResNet-18 network with a narrow head, in float64, with a fixed seed."""
    torch.manual_seed(0)
    return Network(**{"num_classes": 3, "backbone": "resnet18", "head_channels": 8, **changes}).double()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 33, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", GOLDEN_NETWORKS)
def test_state_dict_has_the_published_names_and_shapes_in_order(name):
    with torch.device("meta"):
        network = Network(*GOLDEN_NETWORKS[name])
    assert [(key, list(value.shape)) for key, value in network.state_dict().items()] == list(
        load_json(f"state_dict_{name}").items()
    )


@pytest.mark.parametrize("name", GOLDEN_NETWORKS)
@torch.no_grad()
def test_forward_gives_the_published_logits_in_either_mode(name):
    golden = load_arrays(f"forward_{name}")
    with torch.device("meta"):
        network = Network(*GOLDEN_NETWORKS[name]).double()
    network.to_empty(device="cpu")
    fill_deterministic(network, int(golden["salt"]))
    images = torch.from_numpy(golden["input"]).double()

    eval_logits = network.eval()(images)
    train_logits = [network.train()(images, branch) for branch in (1, 2)]

    assert relative_error(eval_logits, golden["eval_logits"]) < 1e-5
    assert relative_error(train_logits[0], golden["train_logits_1"]) < 1e-5
    assert relative_error(train_logits[1], golden["train_logits_2"]) < 1e-5
    assert relative_error(network.branch1.backbone.bn1.running_mean, golden["bn_running_mean_stem"]) < 1e-5


@pytest.mark.parametrize("size", [(32, 48), (33, 49), (17, 70)])
@pytest.mark.parametrize("mode", [True, False])
def test_logits_have_the_size_of_the_images(size, mode):
    with torch.device("meta"):
        network = Network(5, "resnet18", head_channels=8).train(mode)
        assert network(torch.zeros(2, 3, *size), branch=2).shape == (2, 5, *size)


def test_corners_of_upsampled_logits_are_those_of_the_logits(images):
    network = small_network().eval()
    quarter = network.logits(images, branch=2)
    assert quarter.shape == (2, 3, 9, 13)
    corners_of_logits = network(images, branch=2)[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert relative_error(corners_of_logits, quarter[..., [0, 0, -1, -1], [0, -1, 0, -1]]) < 1e-12


def test_branches_begin_with_different_weights():
    network = small_network()
    for key, value in network.branch1.state_dict().items():
        if value.dim() == 4:
            assert not torch.equal(value, network.branch2.state_dict()[key]), key


@pytest.mark.parametrize("branch", [1, 2])
def test_a_branch_touches_neither_gradients_nor_statistics_of_the_other(branch, images):
    network = small_network().train()
    used, other = network.branches[branch - 1], network.branches[2 - branch]
    statistics_before = other.backbone.bn1.running_mean.clone()

    network(images, branch).sum().backward()

    assert all(p.grad is not None for p in used.parameters())
    assert all(p.grad is None for p in other.parameters())
    assert used.backbone.bn1.num_batches_tracked == 1
    assert other.backbone.bn1.num_batches_tracked == 0
    assert torch.equal(other.backbone.bn1.running_mean, statistics_before)


def test_one_branch_equals_the_first_of_two(images):
    alone, pair = small_network(branches=1).eval(), small_network().eval()
    assert alone.branches == [alone.branch1]
    assert pair.branches == [pair.branch1, pair.branch2]
    assert list(alone.state_dict()) == [key for key in pair.state_dict() if key.startswith("branch1.")]
    alone.load_state_dict({key: value for key, value in pair.state_dict().items() if key.startswith("branch1.")})
    assert torch.equal(alone(images), pair(images, branch=1))


def test_head_is_kaiming_normal_fan_in_and_its_norms_are_neutral():
    torch.manual_seed(0)
    network = Network(21, "resnet18", branches=1)
    for part in (network.branch1.head, network.branch1.classifier):
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
                fan_in = module.weight[0].numel()
                assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
                assert module.weight.mean().item() == pytest.approx(0, abs=0.06 * (2 / fan_in) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()


def test_every_norm_has_the_wanted_epsilon_and_momentum():
    with torch.device("meta"):
        wanted = Network(3, "resnet18", head_channels=8, bn_eps=1e-3, bn_momentum=0.01)
        default = Network(3, "resnet18", head_channels=8)
    norms = [m for m in wanted.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert {(m.eps, m.momentum) for m in default.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}
    head_norms, stem_norms, block_norms, shortcut_norms = 6, 3, 2 * 8, 4
    assert len(norms) == 2 * (head_norms + stem_norms + block_norms + shortcut_norms)
