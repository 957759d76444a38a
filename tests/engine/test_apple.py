"""Training and evaluation make no float64 tensors on an Apple GPU, which does not support them.

Simulated on a CPU: the code is told that float64 is missing, and a stand-in refuses such tensors.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from furnace.checks.estimate import random_batch
from furnace.engine.distributed import CPU
from furnace.methods.build import build_network
from furnace.methods.method import METHODS
from furnace.seg_opr import confusion
from furnace.seg_opr.metrics import METRICS
from furnace.utils.settings import Settings
from tests.engine.steps import seeded_learner


class WithoutFloat64(TorchDispatchMode):
    """Raises TypeError if a float64 tensor is created, as PyTorch does on `mps`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.lift_fresh.default:  # a NumPy array, which is on the host first
            return found
        if any(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in tree_leaves(found)):
            raise TypeError(f"{function}: float64")
        return found


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confusion, "has_float64", lambda device: False)


def test_the_stand_in_refuses_float64():
    with WithoutFloat64(), pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("method", METHODS.all())
def test_a_step(method: str, make_settings: Callable[..., Settings]):
    C = make_settings(method=method, head_channels=8)
    learner, batch = seeded_learner(C, CPU), random_batch(C, CPU, C.batch_size, C.image_height, C.image_width)
    with WithoutFloat64():
        learner.step(batch, 0)
    assert not learner.guard.check()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric(name: str):
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (9, 11)))
    with WithoutFloat64():
        metric = METRICS.find(name)(4)
        metric.update(labels, labels)
        values = metric.compute()
    assert values[next(iter(metric.numbers))] == 1


def test_the_persistent_state_of_a_method_has_no_float64(make_settings: Callable[..., Settings]):
    network = build_network(make_settings(disagreement_momentum=0.5, head_channels=8))
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    assert "agreement" in network.state_dict()
