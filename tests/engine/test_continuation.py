"""An interrupted run continues as if it had never been stopped: bit for bit on a CPU."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console

from furnace.engine.snapshot_folder import AUTOSAVE
from furnace.engine.trainer import Trainer
from furnace.utils.config import Config

CPU = torch.device("cpu")
TOTAL = 6


class Cut(Exception):
    """Ends a run in the middle, as nothing it knows would."""


def train(C: Config, resume: str | None = None, stop_after: int | None = None, **options) -> list[dict]:
    """Train and return every iteration's scalars; `stop_after` so many iterations in all, saved or not."""
    trainer = Trainer(C, CPU, resume, console=Console(quiet=True), **options)
    seen = []
    step = trainer.learner.step

    def observed(batch, iteration):
        if iteration == stop_after:
            raise Cut
        outcome = step(batch, iteration)
        digest = {name: float(value.double().sum()) for name, value in vars(batch).items() if torch.is_tensor(value)}
        seen.append({"iteration": iteration, **{k: v.item() for k, v in outcome.scalars.items()}, **digest})
        return outcome

    trainer.learner.step = observed
    with suppress(Cut):
        trainer.fit()
    return seen


def final(C: Config) -> dict:
    return torch.load(Path(C.snapshot_dir) / "epoch-last.pth", weights_only=True)


def assert_same_state(one: dict, other: dict) -> None:
    for key in ("model", "optimizer_1", "optimizer_2"):
        assert json.dumps(one[key], default=tensor_text) == json.dumps(other[key], default=tensor_text), key
    assert (one["epoch"], one["iteration"]) == (other["epoch"], other["iteration"])


def tensor_text(tensor: torch.Tensor) -> str:
    return tensor.numpy().tobytes().hex()


@pytest.fixture
def settings(make_settings, tmp_path) -> Callable[..., Config]:
    def make(run: str, **changes) -> Config:
        small = {"head_channels": 8, "log_dir": str(tmp_path / run), "snapshot_dir": str(tmp_path / run / "snapshot")}
        return make_settings(**small, **changes)

    return make


@pytest.mark.parametrize("stop_after, workers", [(1, 0), (4, 2)])
def test_a_run_cut_in_an_epoch_continues_bit_for_bit(settings, stop_after: int, workers: int) -> None:
    whole = train(settings("whole"))
    assert [entry["iteration"] for entry in whole] == list(range(TOTAL))
    C = settings("cut", num_workers=workers)
    begin = train(C, "auto", stop_after)
    assert (Path(C.snapshot_dir) / AUTOSAVE).is_file()
    rest = train(C, "auto")
    assert begin + rest == whole
    assert len(begin) == stop_after
    assert_same_state(final(C), final(settings("whole")))
