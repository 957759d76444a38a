"""A replaced run leaves no files beside the new one; a run that goes back moves its abandoned end to a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.record import REPORT, RESULTS, TRAINING_METRICS, TRUTH, read_metrics
from furnace.engine.traces import (
    PREDICTIONS,
    STRIPS,
    TENSORBOARD,
    clear_traces,
    move_lines,
    move_results,
    move_traces,
    strips_from,
    unused,
)
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


def test_a_run_that_goes_back_moves_its_abandoned_end_to_a_folder(make_trainer, tmp_path: Path) -> None:
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


def test_a_run_that_only_continues_moves_nothing(make_trainer, tmp_path: Path) -> None:
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


def test_text_logs_and_unknown_files_stay_when_traces_are_cleared(tmp_path: Path) -> None:
    clear_traces(tmp_path)
    for name in (RESULTS, REPORT, TRAINING_METRICS, TRUTH, "log_last.log", "mine.png"):
        (tmp_path / name).touch()
    for name in (STRIPS, PREDICTIONS, TENSORBOARD, "abandoned-2"):
        (tmp_path / name / "deep").mkdir(parents=True)
    clear_traces(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"log_last.log", "mine.png", "abandoned-2"}


def test_a_new_run_keeps_the_results_of_an_earlier_one_whose_snapshots_are_gone(make_trainer, tmp_path: Path) -> None:
    assert move_traces(tmp_path / "log") is None
    for _ in range(2):
        (tmp_path / "log" / PREDICTIONS).mkdir(parents=True)
        (tmp_path / "log" / RESULTS).write_text("scores")
        make_trainer(nepochs=1).fit()
        shutil.rmtree(tmp_path / "log/snapshot")
    for name in ("earlier", "earlier-2"):
        assert (tmp_path / "log" / name / RESULTS).read_text() == "scores"
        assert (tmp_path / "log" / name / PREDICTIONS).is_dir()
    assert not (tmp_path / "log" / RESULTS).exists()


def test_a_name_that_is_taken_is_numbered(tmp_path: Path) -> None:
    for expected in ("abandoned-7", "abandoned-7-2", "abandoned-7-3"):
        path = unused(tmp_path / "abandoned-7")
        assert path == tmp_path / expected
        path.mkdir()


def test_strips_after_an_iteration(tmp_path: Path) -> None:
    for name in ("iteration-000002.png", "iteration-000003.png", "iteration-12.png", "iteration-5.png.bak", "a.png"):
        (tmp_path / name).touch()
    assert {path.name for path in strips_from(tmp_path, 2)} == {"iteration-000003.png", "iteration-12.png"}
    assert strips_from(tmp_path / "missing", 2) == []


def test_records_from_an_iteration_on_are_moved_and_broken_lines_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    early, late = ['{"iteration": 0}\n', '{"iter\n', "[]\n", "{}\n"], ['{"iteration": 1}\n', '{"iteration": 3}\n']
    move_lines(source, target, 1)
    source.write_text("".join([*late[:1], *early, *late[1:]]))
    move_lines(source, target, 4)
    assert not target.exists()
    move_lines(source, target, 1)
    assert (source.read_text(), target.read_text()) == ("".join(early), "".join(late))


def test_records_are_moved_despite_a_line_that_is_not_text(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_bytes(b'\xff\n{"iteration": 3}\n')
    move_lines(source, target, 1)
    assert (source.read_text(encoding="utf-8"), target.read_text()) == ("\ufffd\n", '{"iteration": 3}\n')


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"epoch": "2", "snapshot": "x"}]'])
def test_invalid_results_stay(content: str, tmp_path: Path) -> None:
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    move_results(source, target, tmp_path, 0)
    source.write_text(content)
    move_results(source, target, tmp_path, 0)
    assert source.read_text() == content and not target.exists()


def test_scores_of_the_folder_s_later_epochs_are_moved(tmp_path: Path) -> None:
    """If a run goes back to 1.5 epochs, the score of epoch 1, which was saved after two epochs, is moved, too."""
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    own = [{"epoch": epoch, "snapshot": str(tmp_path.resolve() / f"epoch-{epoch}.pth")} for epoch in range(4)]
    other = {"epoch": 3, "snapshot": str(tmp_path / "elsewhere" / "epoch-3.pth")}
    for epochs, kept in ((4, 4), (2, 2), (1.5, 1)):
        source.write_text(json.dumps([other, "noise", *own]))
        target.unlink(missing_ok=True)
        move_results(source, target, tmp_path, epochs)
        assert json.loads(source.read_text()) == [other, "noise", *own[:kept]]
        assert not target.exists() if kept == 4 else json.loads(target.read_text()) == own[kept:]
