"""Single steps of very small networks against plain autograd, and their state after a fault."""

import copy

import pytest
import torch
from torch import Tensor, nn

from furnace.datasets.batch import TrainBatch
from furnace.engine.guard import Fault
from furnace.engine.learner import Learner
from furnace.engine.optim import poly_lr
from furnace.methods.method import Loss, Teaching

TOTAL, LR = 8, 0.1
WEIGHTS = {"sup": 1.0, "extra": 0.5}


class Pair(nn.Module):
    """Two networks of one layer and one norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2))


class Means(nn.Module):
    """A method with one loss per network: the mean squared distance of the output from one."""

    trained = (1, 2)

    def __init__(self):
        super().__init__()
        self.heard, self.factor, self.learner = [], {"sup": 1.0, "extra": 1.0}, None

    def before_step(self, progress: float) -> None:
        self.heard.append(progress)

    def after_step(self, networks: Pair, iteration: int) -> None:
        self.heard.append((networks, iteration, self.learner.intact))

    def loss(self, networks: Pair, number: int, images: Tensor) -> Tensor:
        return (networks.branches[number](images.flatten(1)) - 1).square().mean()

    def losses(self, networks: Pair, batch: TrainBatch):
        for number, (name, weight) in enumerate(WEIGHTS.items()):
            if self.factor[name] is None:
                raise RuntimeError("no memory")
            yield Loss(name, self.loss(networks, number, batch.images) * self.factor[name], weight)
        return Teaching(scalars={"overlap": torch.tensor(0.25)})


def make_learner(**options) -> Learner:
    method = Means()
    method.learner = Learner(Pair(), method, total_iterations=TOTAL, lr=LR, optimizer={"momentum": 0.0}, **options)
    return method.learner


def make_batch() -> TrainBatch:
    rng = torch.Generator().manual_seed(1)
    return TrainBatch(torch.randn(6, 1, 2, 2, generator=rng), torch.zeros(6, 2, 2, dtype=torch.int64))


def state(learner: Learner) -> dict[str, Tensor]:
    return copy.deepcopy(learner.network.state_dict())


def test_steps_follow_the_gradients_of_the_weighted_sum() -> None:
    learner, batch = make_learner(), make_batch()
    learner.network.eval()
    plain, method = copy.deepcopy(learner.network).train(), learner.method
    for iteration in range(2):
        output = learner.step(batch, iteration)
        plain.zero_grad()
        parts = [method.loss(plain, number, batch.images) for number in range(2)]
        total = sum(weight * part for weight, part in zip(WEIGHTS.values(), parts, strict=True))
        total.backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= poly_lr(LR, iteration, TOTAL, 0.9) * parameter.grad
        expected = {"loss": total.item(), "sup": parts[0].item(), "extra": parts[1].item(), "overlap": 0.25}
        assert {name: value.item() for name, value in output.scalars.items()} == pytest.approx(expected)
        assert output.teaching.scalars == {"overlap": torch.tensor(0.25)}
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(learner.network.state_dict()[name], value, msg=name)
    assert learner.intact and learner.guard.check() == []
    # Progress before a step; networks and iteration after it, while the state is not intact.
    assert method.heard == [0, (learner.network, 0, False), 1 / TOTAL, (learner.network, 1, False)]


def test_a_loss_that_is_not_finite_leaves_nothing_behind() -> None:
    learner, batch = make_learner(freeze=False), make_batch()
    learner.step(batch, 0)
    before = state(learner)
    learner.method.factor["extra"] = torch.nan
    learner.step(batch, 1)
    assert all(torch.equal(value, before[name]) for name, value in state(learner).items())
    assert learner.intact and learner.guard.check() == [Fault(1, ("extra",))]
    learner.method.factor["extra"] = 1.0
    learner.step(batch, 2)
    assert not any(torch.equal(value, before[name]) for name, value in state(learner).items() if "weight" in name)


def test_an_error_between_two_losses_leaves_nothing_behind() -> None:
    learner, batch = make_learner(), make_batch()
    before = state(learner)
    learner.method.factor["extra"] = None
    with pytest.raises(RuntimeError, match="no memory"):
        learner.step(batch, 0)
    assert learner.intact
    assert all(torch.equal(value, before[name]) for name, value in state(learner).items())


def test_gradients_too_large_for_half_precision_halve_the_scale_and_are_no_fault() -> None:
    learner, batch = make_learner(amp="fp16"), make_batch()
    learner.scale.scale.fill_(8)  # with a run's initial scale, these gradients would overflow even without the hook
    learner.step(batch, 0)
    before = state(learner)
    hook = learner.network.branches[0][0].weight.register_hook(lambda gradient: gradient * torch.inf)
    learner.step(batch, 1)
    assert all(torch.equal(value, before[name]) for name, value in state(learner).items() if "weight" in name)
    assert learner.scale.state_dict() == {"scale": 4, "good_steps": 0}
    hook.remove()
    learner.step(batch, 2)
    assert learner.scale.state_dict() == {"scale": 4, "good_steps": 1}
    assert not torch.equal(state(learner)["branches.0.0.weight"], before["branches.0.0.weight"])
    assert learner.guard.check() == []


def test_half_precision_gives_the_gradients_of_full_precision() -> None:
    """The scale is removed from them again."""
    gradients = []
    for amp in ("off", "fp16"):
        learner = make_learner(amp=amp)
        if amp == "fp16":
            learner.scale.scale.fill_(8)
        learner.step(make_batch(), 0)
        gradients.append(learner.network.branches[1][1].bias.grad.clone())
    assert gradients[0].abs().min() > 0.1
    torch.testing.assert_close(*gradients, rtol=0.02, atol=0)


def test_a_network_that_is_not_trained_has_no_gradients_and_no_optimizer(monkeypatch) -> None:
    monkeypatch.setattr(Means, "trained", (1,))
    learner = make_learner()
    assert len(learner.optimizers) == 1
    assert [p.requires_grad for p in learner.network.parameters()] == [True] * 4 + [False] * 4
