"""A run that is replaced leaves nothing beside the new one; one that goes back sets its abandoned end apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.record import REPORT, RESULTS, TRAINING_METRICS, read_metrics
from furnace.engine.traces import STRIPS, TENSORBOARD
from furnace.engine.trainer import Trainer
from furnace.inference.evaluator import Evaluator
from tests.tiny_run import NARROW

CHANGES = {"niters_per_epoch": 1, "snapshot_iter": 1, "image_iter": 1, "record_info_iter": 1, "eval_crop_size": 40}


@pytest.fixture
def make_trainer(make_settings, tmp_path) -> Callable[..., Trainer]:
    def make(resume: str | None = None, overwrite: bool = False, **changes) -> Trainer:
        folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        C = make_settings(**{"method": "cps", **NARROW, **folders, **CHANGES, **changes})
        return Trainer(C, CPU, resume, overwrite, Console(quiet=True))

    return make


def evaluate(trainer: Trainer, which: str) -> None:
    Evaluator(trainer.C, CPU, save_to=Path(trainer.C.log_dir) / "predictions", console=Console(quiet=True)).run(which)


def epochs_of(path: Path) -> list[int]:
    return [entry["epoch"] for entry in json.loads(path.read_text())]


def test_a_run_that_replaces_another_leaves_none_of_its_traces(make_trainer, tmp_path: Path) -> None:
    first = make_trainer(nepochs=3)
    first.fit()
    evaluate(first, "1-2")
    make_trainer(overwrite=True, nepochs=1).fit()
    log = tmp_path / "log"
    assert len(read_metrics(log / TRAINING_METRICS)) == 1
    assert [len(list((log / name).iterdir())) for name in (STRIPS, TENSORBOARD)] == [1, 1]
    assert not any((log / name).exists() for name in (RESULTS, REPORT, "predictions"))
    assert {path.name for path in (log / "snapshot").glob("*.pth")} == {"epoch-0.pth", "epoch-last.pth"}


def test_a_run_that_goes_back_sets_its_abandoned_end_apart(make_trainer, tmp_path: Path) -> None:
    first = make_trainer(nepochs=4)
    first.fit()
    evaluate(first, "1-3")
    log = tmp_path / "log"
    make_trainer(str(log / "snapshot/epoch-1.pth"), nepochs=3, lr=0.1).fit()
    apart = log / "abandoned-2"
    assert {path.name for path in (log / "snapshot").glob("*.pth")} == {"epoch-1.pth", "epoch-2.pth", "epoch-last.pth"}
    moved = {path.name for path in (apart / "snapshot").iterdir()}
    assert moved == {"epoch-2.pth", "epoch-3.pth", "epoch-last.pth"}
    assert epochs_of(log / RESULTS) == [1] and epochs_of(apart / RESULTS) == [2, 3]
    assert [entry["iteration"] for entry in read_metrics(log / TRAINING_METRICS)] == [0, 1, 2]
    assert [entry["iteration"] for entry in read_metrics(apart / TRAINING_METRICS)] == [2, 3]
    assert {path.name for path in (log / STRIPS).iterdir()} == {f"iteration-{i:06d}.png" for i in (1, 2, 3)}
    assert {path.name for path in (apart / STRIPS).iterdir()} == {f"iteration-{i:06d}.png" for i in (3, 4)}
    assert {path.name for path in (log / "predictions").iterdir()} == {"epoch-1"}
    assert (apart / REPORT).is_file() and not (log / REPORT).exists()
    make_trainer(str(log / "snapshot/epoch-1.pth"), nepochs=3, lr=0.2).fit()
    assert {path.name for path in (log / "abandoned-2-2/snapshot").iterdir()} == {"epoch-2.pth", "epoch-last.pth"}


def test_a_run_that_only_continues_sets_nothing_apart(make_trainer, tmp_path: Path) -> None:
    make_trainer(nepochs=2).fit()
    make_trainer("auto", nepochs=3).fit()
    make_trainer(str(tmp_path / "log/snapshot/epoch-2.pth"), nepochs=4).fit()
    assert not list((tmp_path / "log").glob("abandoned*"))


@pytest.mark.parametrize("left", ["older", "missing"])
def test_a_run_that_was_killed_before_its_last_copy_makes_it(make_trainer, left: str, tmp_path: Path) -> None:
    make_trainer(nepochs=3).fit()
    folder = tmp_path / "log/snapshot"
    (folder / "epoch-last.pth").unlink()
    if left == "older":
        shutil.copy2(folder / "epoch-1.pth", folder / "epoch-last.pth")
    make_trainer("auto", nepochs=3).fit()
    assert (folder / "epoch-last.pth").read_bytes() == (folder / "epoch-2.pth").read_bytes()
