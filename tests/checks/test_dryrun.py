"""What a dry run says of memory and disk."""

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
from furnace.checks import dryrun, resources
from furnace.checks.dryrun import activation_bytes, check_disk, check_memory, dry_run
from furnace.checks.findings import Level
from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.utils.settings import Settings
from tests.engine.steps import random_batch
from tests.tiny_run import NARROW


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dryrun, "PROBE_SIDES", (32,))


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(log_dir=str(tmp_path / "log"), batch_size=4, nepochs=8, snapshot_iter=2, **NARROW)


def test_activations_grow_with_pixels_and_networks(C):
    once = activation_bytes(C)
    C = C.updated(batch_size=8)
    assert activation_bytes(C) == pytest.approx(2 * once, rel=0.05)
    C = C.updated(accumulate=4)
    assert activation_bytes(C) == pytest.approx(once / 2, rel=0.05)
    C = C.updated(method="supervised")
    # The graph of one forward pass lives at a time, however many there are.
    assert activation_bytes(C) == pytest.approx(once / 2, rel=0.05)


def test_memory_that_is_not_there_is_a_problem(C, monkeypatch):
    assert check_memory(C, CPU).level == Level.OK
    monkeypatch.setattr(dryrun, "main_memory", lambda: 2**20)
    found = check_memory(C, CPU)
    assert found.level == Level.PROBLEM and "1.0 MiB" in found.text and "C.accumulate" in found.advice


def test_memory_is_not_judged_where_no_step_could_be_timed(C):
    found = check_memory(C, CPU, timed=False)
    assert found.level == Level.NOTE and found.text == "not measured"


def dry_run_of(C: Settings) -> tuple[int, str]:
    console = Console(file=StringIO(), width=400)
    return dry_run(Trainer(C, CPU, console=console)), console.file.getvalue()


def test_a_step_that_does_not_fit_is_a_problem_of_memory(C, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resources, "estimate", run_out)
    status, said = dry_run_of(C)
    lines = [line.split() for line in said.splitlines() if "memory" in line.split()[:2]]
    assert status == 1 and len(lines) == 1 and lines[0][:4] == ["problem", "memory", "CUDA", "out"], said


def test_nothing_is_downloaded(C, tmp_path, monkeypatch):
    def download(*_, **__):
        raise AssertionError("downloaded")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "imagenet_weights", download)
    C = C.updated(pretrained_model="imagenet")
    with no_downloads():
        _, said = dry_run_of(C)
    assert "is not there yet" in said and "nothing is downloaded" in said and not (tmp_path / "hub").exists()
    with pytest.raises(AssertionError, match="downloaded"):
        Trainer(C, CPU)


def test_snapshots_that_can_not_be_written_are_a_problem(C, tmp_path):
    trainer = Trainer(C, CPU)
    (tmp_path / "a_file").write_text("")
    C = C.updated(snapshot_dir=str(tmp_path / "a_file" / "snapshot"))
    found = check_disk(C, trainer)
    assert found.level == Level.PROBLEM and "a_file can't be written into" in found.text


def test_of_several_devices_it_says_what_was_measured(C):
    console = Console(file=StringIO(), width=400)
    trainer = Trainer(C, CPU, console=console)
    assert dry_run(trainer, processes=2) == dry_run(trainer) == 0
    assert console.file.getvalue().count("those of the whole batch on cpu; each of 2 will hold a share of it") == 1
    assert dry_run(trainer, processes=3) == 1, "the run would refuse it"
    assert "C.batch_size = 4 must give 3 process(es)" in console.file.getvalue()


def test_disk_needed_is_that_of_the_snapshots(C, tmp_path, monkeypatch):
    trainer = Trainer(C, CPU)
    found = check_disk(C, trainer)
    # After the first sixth of eight epochs: 2, 4, 6, and the last, 7.
    assert found.level == Level.OK and found.text.startswith("4 snapshots of ")
    trainer.learner.step(random_batch(C, CPU), 0)  # the optimizers have momentum from the first step on
    trainer.save(0)
    size = (Path(C.snapshot_dir) / "epoch-0.pth").stat().st_size / 2**20
    assert float(found.text.split()[3]) == pytest.approx(size, rel=0.01)
    C = C.updated(keep_snapshots=1)
    assert check_disk(C, trainer).text.startswith("1 snapshots of ")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    found = check_disk(C, trainer)
    assert found.level == Level.PROBLEM and "976.6 KiB free" in found.text


def test_a_run_that_is_nearly_done_needs_no_room_for_what_it_has_saved(C, monkeypatch):
    trainer = Trainer(C, CPU)
    whole = check_disk(C, trainer)
    needed = re.search(r"(\d+) snapshots of ([\d.]+) MiB: ([\d.]+) MiB", whole.text)
    count, each, room = int(needed[1]), float(needed[2]), float(needed[3])
    assert room == pytest.approx((count + 1) * each, rel=0.01), "and one that is being written"
    Path(C.snapshot_dir).mkdir(parents=True)
    for epoch in (2, 4, 6):
        (Path(C.snapshot_dir) / f"epoch-{epoch}.pth").write_bytes(b"")
    free = int((2.05 * each) * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert check_disk(C, trainer).level == Level.OK
