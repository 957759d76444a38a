"""Findings of a dry run about memory and disk."""

import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from furnace.base_model import pretrained
from furnace.base_model.pretrained import no_downloads
from furnace.checks import dryrun, peak, resources
from furnace.checks.dryrun import check_disk, check_memory, dry_run
from furnace.checks.findings import Level
from furnace.checks.resources import check_weights
from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import byte_size
from tests.engine.steps import random_batch
from tests.tiny_run import NARROW

PREDICTED = 2**30


@pytest.fixture(autouse=True)
def predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict 1 GiB, half of it with `C.checkpoint`; tests/checks/test_peak.py tests the real prediction."""
    for module in (dryrun, peak):
        monkeypatch.setattr(module, "predicted_peak", lambda C, _: PREDICTED // (2 if C.checkpoint else 1))


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(log_dir=str(tmp_path / "log"), batch_size=4, nepochs=8, snapshot_iter=2, **NARROW)


def test_memory_is_predicted_with_checkpoint_and_without(C):
    text = check_memory(C, CPU).text
    assert text.startswith("about 1.0 GiB of ") and "for a step (512.0 MiB with C.checkpoint = True)" in text
    assert "with C.checkpoint" not in check_memory(C.updated(checkpoint=True), CPU).text


@pytest.mark.parametrize(
    ("total", "advice"),
    [(PREDICTED + 2**29 - 1, "-o checkpoint=true (512.0 MiB)"), (2**20, "choose a smaller C.backbone")],
)
def test_too_little_memory_is_a_problem(C, monkeypatch, total: int, advice: str):
    monkeypatch.setattr(dryrun, "main_memory", lambda: PREDICTED + 2**29)
    assert check_memory(C, CPU).level == Level.OK
    monkeypatch.setattr(dryrun, "main_memory", lambda: total)
    found = check_memory(C, CPU)
    assert found.level == Level.PROBLEM and byte_size(total) in found.text and advice in found.advice


def test_memory_that_can_not_be_predicted_is_a_note(C, monkeypatch):
    def fail(*_):
        raise UserError("a step can't be computed")

    monkeypatch.setattr(dryrun, "predicted_peak", fail)
    found = check_memory(C, CPU)
    assert found.level == Level.NOTE and found.text == "not predicted: a step can't be computed"


def dry_run_of(C: Settings) -> tuple[int, str]:
    console = Console(file=StringIO(), width=400)
    return dry_run(Trainer(C, CPU, console=console)), console.file.getvalue()


def test_a_step_that_does_not_fit_is_a_problem_of_memory(C, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resources, "estimate", run_out)
    status, said = dry_run_of(C)
    lines = [line.split() for line in said.splitlines() if "memory" in line.split()[:2]]
    assert status == 1 and lines[0][:4] == ["problem", "memory", "CUDA", "out"], said
    assert lines[1][:3] == ["ok", "memory", "about"], "the prediction knows nothing of other programs"


def test_nothing_is_downloaded(C, tmp_path, monkeypatch):
    C = C.updated(backbone="resnet18")

    def download(*_, **__):
        raise AssertionError("downloaded")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "imagenet_weights", download)
    C = C.updated(pretrained_model="imagenet")
    with no_downloads():
        _, said = dry_run_of(C)
    assert "does not exist yet" in said and "nothing is downloaded" in said and not (tmp_path / "hub").exists()
    with pytest.raises(AssertionError, match="downloaded"):
        Trainer(C, CPU)


def test_weights_of_a_snapshot_need_no_pretrained_file(C, tmp_path):
    first = C.updated(nepochs=1, niters_per_epoch=1, log_dir=str(tmp_path / "a"), snapshot_dir=str(tmp_path / "a"))
    Trainer(first, CPU, console=Console(quiet=True)).fit()
    missing, path = C.updated(pretrained_model="/nowhere.pth"), str(tmp_path / "a" / "epoch-0.pth")
    assert check_weights(missing).level == Level.PROBLEM
    found = check_weights(missing.updated(warm_start=path))
    assert found.level == Level.OK and f"C.warm_start = {path}: " in found.text
    console = Console(file=StringIO(), width=400)
    assert dry_run(Trainer(missing, CPU, path, console=console)) == 0
    assert re.search(f"ok *pretrained weights *weights of {path}", console.file.getvalue())


def test_every_faulty_label_is_a_finding(C):
    trainer = Trainer(C, CPU)
    faulty = [sample.label for sample in trainer.dataset.labeled[:2]]
    for path in faulty:
        path.write_bytes(path.read_bytes()[:-60])
    status, said = dry_run_of(C)
    assert status == 1 and f"2 of {len(trainer.dataset.labeled)}: {faulty[0]}" in said and str(faulty[1]) in said


def test_snapshots_that_can_not_be_written_are_a_problem(C, tmp_path):
    (tmp_path / "a_file").write_text("")
    C = C.updated(snapshot_dir=str(tmp_path / "a_file" / "snapshot"))
    found = check_disk(C)
    assert found.level == Level.PROBLEM and "a_file is not writable" in found.text


def test_with_several_devices_the_report_says_what_was_measured(C):
    console = Console(file=StringIO(), width=400)
    trainer = Trainer(C, CPU, console=console)
    assert dry_run(trainer, processes=2) == dry_run(trainer) == 0
    assert console.file.getvalue().count("for the whole batch on cpu; each of 2 devices has a share of it") == 1
    assert dry_run(trainer, processes=3) == 1, "the run would refuse it"
    assert "C.batch_size = 4 must give 3 process(es)" in console.file.getvalue()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_disk_needed_is_that_of_the_snapshots(C, monkeypatch, optimizer):
    C = C.updated(backbone="resnet18", optimizer=optimizer, method="supervised")
    found = check_disk(C)
    # After the first sixth of eight epochs, epochs 2, 4 and 6, and the last one, 7.
    assert found.level == Level.OK and found.text.startswith("4 snapshots of ")
    trainer = Trainer(C, CPU)
    trainer.learner.step(random_batch(C, CPU), 0)  # the optimizers have their state after the first step
    trainer.saver.save_epoch(0)
    size = (Path(C.snapshot_dir) / "epoch-0.pth").stat().st_size / 2**20
    assert float(found.text.split()[3]) == pytest.approx(size, rel=0.01)
    C = C.updated(keep_snapshots=1)
    assert check_disk(C).text.startswith("1 snapshot of ")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    found = check_disk(C)
    assert found.level == Level.PROBLEM and "976.6 KiB free" in found.text


def test_a_run_that_is_nearly_done_needs_no_room_for_what_it_has_saved(C, monkeypatch):
    C = C.updated(backbone="resnet18")
    whole = check_disk(C)
    needed = re.search(r"(\d+) snapshots? of ([\d.]+) MiB: at most ([\d.]+) MiB", whole.text)
    count, each, room = int(needed[1]), float(needed[2]), float(needed[3])
    assert room == pytest.approx((count + 1) * each, rel=0.01), "and one that is being written"
    Path(C.snapshot_dir).mkdir(parents=True)
    for epoch in (2, 4, 6):
        (Path(C.snapshot_dir) / f"epoch-{epoch}.pth").write_bytes(b"")
    free = int((2.05 * each) * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert check_disk(C).level == Level.OK
