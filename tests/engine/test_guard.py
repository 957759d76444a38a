"""The guard: faults are reported even if the host asks late; an error during its judgement changes nothing."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from furnace.datasets.loaders import build_train_loader
from furnace.engine import guard as module
from furnace.engine.distributed import CPU
from furnace.engine.guard import Fault, Guard
from furnace.engine.trainer import Trainer
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from tests.tiny_run import NARROW


@pytest.mark.parametrize("freeze", [True, False])
def test_bad_iterations_are_reported_even_if_the_host_asks_late(freeze: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD", 10)
    guard, fine = Guard(nn.Linear(1, 1), ALONE, freeze), torch.tensor(False)
    for iteration in range(35):
        loss = torch.tensor(torch.nan if iteration in (0, 21) else 1.0)
        bad = guard.judge(iteration, {"loss": loss}, fine)
        assert len(guard.unread) <= 10
    assert bool(bad) == freeze
    assert [fault.iteration for fault in guard.check()] == [0, 21]
    assert guard.check() == []


def test_an_error_during_the_judgement_changes_nothing(make_settings, tmp_path: Path) -> None:
    """The judgement can fail: it communicates with other processes and allocates memory for the norm."""
    folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log/snapshot")}
    C = make_settings(method="supervised", **NARROW, **folders)
    expected = Trainer(C, CPU, console=Console(quiet=True))
    for number, batch in zip(range(2), build_train_loader(C, expected.dataset), strict=False):
        expected.learner.step(expected.prepare(batch), number)

    trainer = Trainer(C, CPU, console=Console(quiet=True))
    judge = trainer.learner.guard.judge

    def fails(iteration: int, *rest):
        if iteration == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return judge(iteration, *rest)

    trainer.learner.guard.judge = fails
    with pytest.raises(Exception, match="out of memory"):
        trainer.fit()
    again = Trainer(C, CPU, "auto", console=Console(quiet=True))
    assert again.start_iteration == 2
    for name, value in expected.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


FINE, WRONG = torch.tensor(1.0), torch.tensor(torch.inf)
YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize(
    ("scalars", "bad_gradients", "faults"),
    [
        ({"loss": FINE, "sup": FINE}, NO, []),
        ({"loss": WRONG, "sup": FINE, "inter": WRONG}, YES, [Fault(4, ("inter",))]),
        ({"loss": WRONG, "sup": WRONG, "inter": WRONG}, NO, [Fault(4, ("sup", "inter"))]),
        ({"loss": WRONG, "sup": FINE}, YES, [Fault(4, ("loss",))]),
        ({"loss": FINE, "sup": FINE}, YES, [Fault(4, ("gradients",))]),
        ({"loss": FINE, "overlap": WRONG}, NO, []),
    ],
)
def test_the_loss_and_the_gradients_decide_and_the_parts_are_named(scalars: dict, bad_gradients: Tensor, faults: list):
    guard = Guard(nn.Linear(1, 1), ALONE)
    bad = guard.judge(4, scalars, bad_gradients)
    assert (bad.shape, bad.dtype, bool(bad)) == ((), torch.bool, bool(faults))
    guard.judge(5, {"loss": FINE}, NO)
    assert guard.check() == faults


def test_a_fault_in_another_process_counts_here() -> None:
    class Two(WholeBatch):
        def total(self, value: Tensor) -> Tensor:
            return value + torch.tensor([1.0, 0, 0, 1])  # loss and second part in the other process

    guard = Guard(nn.Linear(1, 1), Two())
    assert guard.judge(0, {"loss": FINE, "sup": FINE, "inter": FINE}, NO)
    assert guard.check() == [Fault(0, ("inter",))]


@pytest.mark.parametrize(("bad", "undone"), [((), True), ((YES,), True), ((NO,), False)])
def test_buffers_and_networks_without_gradients_are_restored(bad: tuple, undone: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 3).requires_grad_(False))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    guard = Guard(network, ALONE)
    remembered = guard.remember()
    assert sum(values.nbytes for _, values in remembered) == sum(one.nbytes for one in network.buffers())
    remembered += guard.remember(averages=True)
    with torch.no_grad():
        for value in network.state_dict().values():
            value += 1
    guard.undo(remembered, *bad)
    for name, value in network.state_dict().items():
        back = undone and not (name.startswith("0.") or name in ("1.weight", "1.bias"))  # the optimizer handles these
        torch.testing.assert_close(value, before[name] + (0 if back else 1), msg=name)
