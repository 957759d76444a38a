"""The guard: faults are reported however late the host asks, and one while it judges leaves no trace."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from furnace.datasets.loaders import build_train_loader
from furnace.engine import guard as module
from furnace.engine.distributed import CPU
from furnace.engine.guard import Guard
from furnace.engine.trainer import Trainer
from furnace.seg_opr.whole_batch import ALONE
from tests.tiny_run import NARROW


@pytest.mark.parametrize("freeze", [True, False])
def test_bad_iterations_are_reported_however_late_the_host_asks(freeze: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD", 10)
    guard, fine = Guard(nn.Linear(1, 1), ALONE, freeze), torch.tensor(False)
    for iteration in range(35):
        loss = torch.tensor(torch.nan if iteration in (0, 21) else 1.0)
        bad = guard.judge(iteration, {"loss": loss}, fine)
        assert len(guard.unread) <= 10
    assert bool(bad) == freeze
    assert [fault.iteration for fault in guard.check()] == [0, 21]
    assert guard.check() == []


def test_a_fault_while_an_iteration_is_judged_leaves_no_trace(make_settings, tmp_path: Path) -> None:
    """The judgement talks to the other processes and takes memory for the norm."""
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
