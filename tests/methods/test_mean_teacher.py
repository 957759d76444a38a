"""The teacher: an average of the student over the iterations, in training, snapshots and evaluation."""

import copy

import pytest
import torch

from furnace.engine.learner import Learner
from furnace.methods.average import update_average
from furnace.methods.build import build_method
from tests.methods.test_methods import B, K, make_batch, make_network

DECAY = 0.6


@pytest.fixture
def learner(make_settings) -> Learner:
    C = make_settings(method="mean_teacher", ema_decay=DECAY, num_classes=K, batch_size=B)
    return Learner(
        make_network(),
        build_method(C).to(torch.float64),
        total_iterations=4,
        lr=0.05,
        optimizer={"weight_decay": 1e-4},
    )


def test_teacher_is_the_average_of_all_students(learner: Learner) -> None:
    expected = {}
    for iteration in range(4):
        learner.step(make_batch(), iteration)
        student, teacher = (branch.state_dict() for branch in learner.network.branches)
        stays = [0, 1 / 2, DECAY, DECAY][iteration]  # 1 - 1 / (iteration + 1) until it reaches the decay
        for name, value in student.items():
            if value.is_floating_point():
                expected[name] = stays * expected.get(name, 0) + (1 - stays) * value
                torch.testing.assert_close(teacher[name], expected[name], rtol=1e-9, atol=1e-12)
            else:
                assert torch.equal(teacher[name], value), name
    assert any(not torch.equal(teacher[name], student[name]) for name in student if "running_var" in name)


def test_only_the_student_is_optimised(learner: Learner) -> None:
    assert len(learner.optimizers) == 1
    optimised = {id(p) for group in learner.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in learner.network.branch1.parameters()}
    learner.step(make_batch(), 0)
    assert all(p.grad is not None for p in learner.network.branch1.parameters())
    assert all(p.grad is None and not p.requires_grad for p in learner.network.branch2.parameters())


def test_labelling_does_not_change_the_teacher(learner: Learner) -> None:
    before = copy.deepcopy(learner.network.branch2.state_dict())
    learner.network.train()
    list(learner.method.losses(learner.network, make_batch()))
    assert all(torch.equal(value, before[name]) for name, value in learner.network.branch2.state_dict().items())


def test_average_with_decay_one_changes_counters_only() -> None:
    network = make_network()
    network.branch1.head.aspp.map_bn.num_batches_tracked += 3
    before = copy.deepcopy(network.branch2.state_dict())
    update_average(network.branch2, network.branch1, 1.0)
    changed = {name for name, value in network.branch2.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.aspp.map_bn.num_batches_tracked"}
