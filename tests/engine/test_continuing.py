"""An interrupted run continues as if it had never been stopped, bitwise on a CPU; optimizers restore their state."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from furnace.base_model.decoders import DECODERS
from furnace.engine.continuing import load_optimizer
from furnace.engine.optim import OPTIMIZERS, tell_decay
from furnace.engine.snapshot_folder import AUTOSAVE
from furnace.engine.trainer import Trainer
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.engine.small_snapshots import trained

CPU = torch.device("cpu")
TOTAL = 6


class Cut(Exception):
    """Ends a run in the middle; the trainer does not know this exception."""


def train(C: Settings, resume: str | None = None, stop_after: int | None = None, **options) -> list[dict]:
    """Train and return the scalars of every iteration; `stop_after`: number of iterations in total, saved or not."""
    trainer = Trainer(C, CPU, resume, console=Console(quiet=True), **options)
    seen = []
    step = trainer.learner.step

    def observed(batch, iteration):
        if iteration == stop_after:
            raise Cut
        output = step(batch, iteration)
        digest = {name: float(value.double().sum()) for name, value in vars(batch).items() if torch.is_tensor(value)}
        seen.append({"iteration": iteration, **{k: v.item() for k, v in output.scalars.items()}, **digest})
        return output

    trainer.learner.step = observed
    with suppress(Cut):
        trainer.fit()
    return seen


def final(C: Settings) -> dict:
    return torch.load(Path(C.snapshot_dir) / "epoch-last.pth", weights_only=True)


def assert_same_state(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key in one.keys() & {"model", "optimizer_1", "optimizer_2", "scaler"}:
        assert flat(one[key]) == flat(other[key]), key
    assert (one["epoch"], one["iteration"]) == (other["epoch"], other["iteration"])


def flat(state: object) -> str:
    """A state as text, bit for bit, independent of the order of its keys."""
    return json.dumps(state, default=lambda tensor: tensor.numpy().tobytes().hex(), sort_keys=True)


@pytest.fixture
def settings(make_settings, tmp_path) -> Callable[..., Settings]:
    def make(run: str, **changes) -> Settings:
        small = {"head_channels": 8, "log_dir": str(tmp_path / run), "snapshot_dir": str(tmp_path / run / "snapshot")}
        return make_settings(**small, **changes)

    return make


@pytest.mark.parametrize(
    "stop_after, changes",
    [
        (4, {"num_workers": 2}),
        (1, {"method": "cps", "strong": True, "accumulate": 2, "batch_size": 4}),
        (2, {"method": "mean_teacher", "strong": True, "cutmix": False}),
        (
            4,
            {
                "disagreement_momentum": 0.9,
                "union_after": 0.5,
                "teacher": "ema",
                "student_views": 2,
                "feature_dropout": 0.5,
            },
        ),
        (2, {"method": "unimatch", "confidence_threshold": 0.2, "accumulate": 2, "batch_size": 4}),
        (3, {"method": "unimatch_v2", "confidence_threshold": 0.2}),
        # On a CPU, an iteration in float16 takes several seconds.
        pytest.param(2, {"method": "supervised", "amp": "fp16"}, marks=pytest.mark.slow),
        (5, {"method": "supervised", "optimizer": "adamw", "lr": 1e-3, "amp": "bf16"}),
    ],
    ids=lambda value: str(value.get("method", "cpcl")) if isinstance(value, dict) else str(value),
)
def test_a_run_cut_in_an_epoch_continues_bit_for_bit(settings, stop_after: int, changes: dict) -> None:
    whole = train(settings("whole", **changes))
    assert [entry["iteration"] for entry in whole] == list(range(TOTAL))
    C = settings("cut", **changes)
    begin = train(C, "auto", stop_after)
    assert (Path(C.snapshot_dir) / AUTOSAVE).is_file()
    rest = train(C, "auto")
    assert begin + rest == whole
    assert len(begin) == stop_after
    assert_same_state(final(C), final(settings("whole")))
    assert bool(final(C)["scaler"]) == (changes.get("amp") == "fp16")


def dropping(channels, strides, num_classes: int, width: int) -> tuple[nn.Module, nn.Module]:
    """The published decoder with dropout, which uses PyTorch's own generator."""
    head, classifier = DECODERS["deeplabv3plus"](channels, strides, num_classes, width)
    return head, nn.Sequential(nn.Dropout2d(0.5), classifier)


def test_dropout_of_a_network_continues_bit_for_bit(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "dropping", dropping)
    changes = {"method": "supervised", "decoder": "dropping"}
    whole = train(settings("whole", **changes))
    assert len({entry["loss"] for entry in whole}) == TOTAL
    C = settings("cut", **changes)
    assert train(C, "auto", 2) + train(C, "auto") == whole
    assert_same_state(final(C), final(settings("whole", **changes)))


class Counting(Optimizer):
    """It counts its steps in the groups, and keeps a number and a tensor of another shape than the parameter's."""

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            for parameter in group["params"]:
                self.state[parameter]["rows"] = torch.full(parameter.shape[:1], 2.0 * group["steps"])
                self.state[parameter]["number"] = group["steps"]


def test_states_of_any_optimizer_are_restored() -> None:
    network = nn.Linear(3, 4)
    groups = [{"params": [network.weight]}, {"params": [network.bias]}]
    saved, again = (Counting([dict(group) for group in groups], {"lr": lr}) for lr in (0.1, 0.2))
    for _ in range(3):
        saved.step()
    load_optimizer(again, saved.state_dict(), "a.pth")
    assert [(group["steps"], group["lr"]) for group in again.param_groups] == [(3, 0.2)] * 2
    assert again.state[network.weight]["number"] == 3 and again.state[network.weight]["rows"].tolist() == [6.0] * 4


def test_the_loss_scale_of_float16_is_restored(settings) -> None:
    C = settings("run", amp="fp16")
    trainer = Trainer(C, CPU, console=Console(quiet=True))
    trainer.learner.scale.scale.fill_(32.0)
    trainer.learner.scale.good_steps.fill_(7)
    Path(C.snapshot_dir).mkdir(parents=True)
    trainer.saver.save_epoch(0)
    again = Trainer(C, CPU, "auto", console=Console(quiet=True)).learner.scale
    assert again.enabled and (again.scale.item(), again.good_steps.item()) == (32.0, 7)


def test_momentum_gets_the_memory_format_of_its_parameter_and_is_zero_if_missing() -> None:
    """Fused kernels need this: a snapshot from a CPU has another memory format than networks on a GPU."""
    network = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    state = optimizer.state_dict()
    expected = state["state"][0]["momentum_buffer"].clone()
    state["state"][1]["momentum_buffer"] = None
    network = network.to(memory_format=torch.channels_last)
    fresh = OPTIMIZERS["sgd"]([{"params": list(network.parameters())}], 0.1, 0.9, False)
    load_optimizer(fresh, state, "epoch-3.pth")
    found, bias = (fresh.state[parameter]["momentum_buffer"] for parameter in network.parameters())
    assert found.stride() == network.weight.stride() != expected.stride()
    assert torch.equal(found, expected) and torch.equal(bias, torch.zeros(4))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["param_groups"].append({"params": [7]}), "has 1 parameters without weight decay"),
        (
            lambda state: state["param_groups"][0]["params"].pop(),
            "has 5 parameters with weight decay",
        ),
        (lambda state: state.pop("state"), "has no groups of parameters"),
        (lambda state: state["state"].update({0: 1}), "for parameter 0 can't be used"),
        (lambda state: state["state"][0].update(momentum_buffer=torch.ones(2)), "has another shape than its parameter"),
    ],
)
def test_an_optimizer_of_another_network_is_refused(change: Callable, message: str) -> None:
    state = trained()[1].state_dict()
    change(state)
    with pytest.raises(UserError, match=message):
        load_optimizer(trained()[1], state, "epoch-3.pth")


def as_published(optimizer: Optimizer, branch: nn.Module) -> dict:
    """An optimizer's state in the published form: two groups per module, with and without decay; arbitrary ids."""
    groups, state = [], {}
    for part in (branch.backbone, branch.head, branch.classifier):
        for decays in (True, False):
            chosen = [parameter for parameter, with_decay in tell_decay(part) if with_decay == decays]
            ids = [140_000_000_000_000 - 64 * (len(state) + number) for number in range(len(chosen))]
            state |= {index: dict(optimizer.state[p]) for index, p in zip(ids, chosen, strict=True)}
            groups.append({"params": ids, "lr": 7.0})
    return {"param_groups": groups, "state": state}


def test_a_checkpoint_of_the_published_code_continues_with_its_momentum(settings, tmp_path: Path) -> None:
    changes = {"nepochs": 3, "niters_per_epoch": 2, "snapshot_iter": 1}
    whole = train(settings("whole", **changes))
    trainer = Trainer(settings("first", **changes), CPU, None, console=Console(quiet=True))
    learner = trainer.learner
    ours = torch.load(tmp_path / "whole/snapshot/epoch-1.pth", weights_only=True)
    published = {"model": {f"module.{name}": tensor for name, tensor in ours["model"].items()}}
    for number, (optimizer, branch) in enumerate(zip(learner.optimizers, learner.network.branches, strict=True), 1):
        load_optimizer(optimizer, ours[f"optimizer_{number}"], "epoch-1.pth")
        published[f"optimizer_{number}"] = as_published(optimizer, branch)
    torch.save({**published, "epoch": 1, "iteration": 1}, tmp_path / "epoch-1.pth")
    assert train(settings("continued", **changes), str(tmp_path / "epoch-1.pth")) == whole[4:]
    assert_same_state(final(settings("continued")), final(settings("whole")))
