"""The step benchmark: both arrangements compute the same loss, and every figure is printed."""

from collections.abc import Callable
from statistics import median

import pytest
import torch

from benchmarks import step
from benchmarks.published import published_losses
from benchmarks.step import Arrangement
from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.methods.build import build_method, build_network
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY
from tests.engine.steps import random_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes", [{}, {"ohem": True, "ohem_min_kept": 60, "ohem_thresh": 0.05, "class_weight": [0.5, 1.5] * 10 + [1]}]
)
def test_the_published_arrangement_has_the_same_loss(make_settings: Callable[..., Settings], changes: dict):
    C = make_settings(head_channels=8, unsup_weight=2, **changes)
    network = build_network(C).double().train()
    batch = random_batch(C, CPU).map(lambda t: t.double() if t.is_floating_point() else t)
    losses = build_method(C).to(torch.float64).losses(network, batch)
    ours = sum(loss.weight * loss.value for loss in losses)
    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight).double()
    ohem = C.ohem_min_kept * C.batch_size if C.ohem else 0
    theirs = published_losses(network, batch, class_weight, C.unsup_weight, ohem, C.ohem_thresh)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    gradients = [torch.autograd.grad(loss, network.branch2.classifier.weight)[0] for loss in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-8)


def test_benchmark_runs_small_on_a_cpu(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def recorded(*args, **kwargs) -> Network:
        network = build_network(*args, **kwargs)
        drawn.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network

    monkeypatch.setattr(step, "build_network", recorded)
    overrides = ["image_height=32", "image_width=32", "batch_size=2", "head_channels=8", "backbone=test_resnet"]
    options = [word for override in overrides for word in ("-o", override)]
    step.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", "--repeats", "1", *options])
    output = capsys.readouterr().out
    assert all(part in output for part in ("students' passes", "backward", "published", "ours", "speed-up", "Not run"))
    published, ours, *_ = drawn
    assert all(torch.equal(tensor, ours[name]) for name, tensor in published.items()), "both start alike"


def test_memory_on_a_cpu_is_that_of_tensors():
    held = step.allocated(step.parse_devices("cpu")[0])
    kept = torch.zeros(2**20)
    assert step.allocated(step.parse_devices("cpu")[0]) - held == kept.nbytes
    assert step.growth(lambda: (torch.zeros(2**18).sum(), torch.zeros(2**19).sum())) == pytest.approx(2**21, rel=0.01)


def test_a_method_that_the_published_step_lacks_is_refused():
    with pytest.raises(UserError, match=r"^C\.method = cps: the published step has cpcl"):
        step.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", "-o", "method=cps"])


def test_a_batch_too_large_for_the_memory_is_split(make_settings: Callable[..., Settings]):
    C, sizes = make_settings(batch_size=4), []

    def step(batch: TrainBatch) -> None:
        sizes.append(len(batch.images))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("too much")

    arrangement = Arrangement(step, random_batch(C, CPU), CPU, 0)
    assert sizes == [4, 2, 1, 1], "what fits takes one more step, whose memory counts"
    arrangement.run(2)
    assert sizes[4:] == [1] * 9, "one step that does not count, and twice the whole batch"
    assert arrangement.seconds == median(arrangement.clock.parts["step"])


def test_the_parts_of_a_batch_are_of_one_size(make_settings: Callable[..., Settings]):
    batch = random_batch(make_settings(batch_size=6), CPU)

    def step(batch: TrainBatch) -> None:
        if len(batch.images) > 2:
            raise torch.OutOfMemoryError("too much")

    arrangement = Arrangement(step, batch, CPU, 0)
    assert [len(part.images) for part in arrangement.batches] == [2, 2, 2]


def test_a_single_image_too_large_is_an_error(make_settings: Callable[..., Settings]):
    def step(batch: TrainBatch) -> None:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Arrangement(step, random_batch(make_settings(batch_size=4), CPU), CPU, 0)
