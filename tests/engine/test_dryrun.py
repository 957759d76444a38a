"""What a dry run says of memory and disk."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from furnace.engine import dryrun
from furnace.engine.distributed import CPU
from furnace.engine.dryrun import activation_bytes, check_disk, check_memory, main_memory
from furnace.engine.findings import Level
from furnace.engine.trainer import Trainer
from furnace.utils.config import Settings
from tests.tiny_run import NARROW


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dryrun, "PROBE_SIDES", (32,))


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(log_dir=str(tmp_path / "log"), batch_size=4, nepochs=8, snapshot_iter=2, **NARROW)


def test_activations_grow_with_pixels_and_networks(C: Settings):
    once = activation_bytes(C)
    C.batch_size = 8
    assert activation_bytes(C) == pytest.approx(2 * once, rel=0.05)
    C.accumulate = 4
    assert activation_bytes(C) == pytest.approx(once / 2, rel=0.05)
    C.method = "supervised"
    # One network with one batch instead of two with two each, whose losses keep something, too.
    assert activation_bytes(C) == pytest.approx(once / 2 / 4, rel=0.25)


def test_memory_that_is_not_there_is_a_problem(C: Settings, monkeypatch: pytest.MonkeyPatch):
    assert check_memory(C, CPU).level == Level.OK
    monkeypatch.setattr(dryrun, "main_memory", lambda: 2**20)
    found = check_memory(C, CPU)
    assert found.level == Level.PROBLEM and "1.0 MiB" in found.text and "C.accumulate" in found.advice


def test_main_memory_is_what_the_kernel_says():
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert main_memory() == pytest.approx(int(line.split()[1]) * 1024, rel=0.01)


def test_disk_needed_is_that_of_the_snapshots(C: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(C, CPU)
    found = check_disk(C, trainer)
    # After the first sixth of eight epochs: 2, 4, 6, and the last, 7.
    assert found.level == Level.OK and found.text.startswith("4 snapshots of ")
    trainer.save(0)
    size = (Path(C.snapshot_dir) / "epoch-0.pth").stat().st_size / 2**20
    assert float(found.text.split()[3]) == pytest.approx(size, rel=0.51)
    C.keep_snapshots = 1
    assert check_disk(C, trainer).text.startswith("1 snapshots of ")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    found = check_disk(C, trainer)
    assert found.level == Level.PROBLEM and "976.6 KiB free" in found.text
