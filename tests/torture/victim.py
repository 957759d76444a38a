"""The victim of the torture: a small training run in its own process and folder."""

import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from furnace.cli import train
from furnace.datasets.toy import make_toy
from furnace.engine.snapshot_folder import LAST, list_snapshots
from furnace.engine.snapshots import OPTIMIZER
from furnace.utils.errors import run
from tests.conftest import REPOSITORY

EXPERIMENT = REPOSITORY / "exp_toy"
HANG_SECONDS = 180
ITERATION = re.compile(r"iteration \d+/\d+")
WIDE = "1000"  # columns of the terminal, so that no message is wrapped
POLL_SECONDS = 0.005
SETTINGS = {
    "method": "supervised",
    "backbone": "test_resnet",  # small and fast; no fault depends on method or encoder
    "labeled_ratio": 3,
    "nepochs": 3,
    "niters_per_epoch": 4,
    "batch_size": 4,
    "image_height": 32,
    "image_width": 32,
    "head_channels": 8,
    "num_workers": 1,
    "snapshot_iter": 1,
    "keep_snapshots": 2,
    "autosave_minutes": 0.03,
    "display_iter": 1,
    "record_info_iter": 1,
}


class Failed(Exception):
    """A fault had an unexpected outcome."""


@dataclass(frozen=True)
class Ending:
    """The end of a training process: its exit status (-9 for a kill) and its output."""

    status: int
    text: str

    def expect(self, *statuses: int, say: str = "") -> "Ending":
        """Raise Failed unless the status is one of `statuses` and the output has the words `say` and no traceback.

        After a kill, a traceback is allowed: orphaned loaders may print one.
        """
        complains = "Traceback" in self.text and self.status != -signal.SIGKILL
        if self.status not in statuses or say not in self.text or complains:
            raise Failed(f"status {self.status} instead of {statuses}, or not {say!r}: ...{self.text[-2000:]}")
        return self


class Victim:
    """A training run that can be started, watched and disturbed; `seconds` is how long it takes without faults.

    Args:
        folder: an empty folder for data, logs and snapshots.
        settings: changes of `SETTINGS`.
    """

    def __init__(self, folder: Path, **settings):
        self.folder, self.log_dir = folder, folder / "log"
        self.settings = {**SETTINGS, **settings, "volna": folder}
        # Processes are forked, which is safe only without running threads.
        torch.set_num_threads(1)
        self.context = multiprocessing.get_context("fork")
        counts = {"train": 24, "val": 4}
        task = partial(make_toy, folder / "DATA" / "toy", 0, counts, (self.settings["labeled_ratio"],))
        self._join(self._fork(task)).expect(0)
        self.process: multiprocessing.Process | None = None
        self.seconds = 0.0

    @property
    def snapshot_dir(self) -> Path:
        return self.log_dir / "snapshot"

    def saves(self) -> list[Path]:
        """The files to continue from, the latest first; hard links to one file count once."""
        found = {path.stat().st_ino: path for path in reversed(list_snapshots(self.snapshot_dir))}
        return list(reversed(found.values()))

    def start(self, inject: Callable[[], None] | None = None, **settings) -> None:
        """Start training with `-c auto` and changed settings; the process calls `inject` first."""
        options = {**self.settings, "log_dir": self.log_dir, **settings}
        argv = ["-d", "cpu", "-c", "auto"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        self.process = self._fork(partial(train, EXPERIMENT, argv), inject)

    def said(self) -> str:
        """The output of the process so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; returns False if the process ended before."""
        end = time.monotonic() + HANG_SECONDS
        while not condition():
            if not self.process.is_alive():
                return condition()
            if time.monotonic() > end:
                raise Failed(f"hangs: ...{self.said()[-2000:]}")
            time.sleep(POLL_SECONDS)
        return True

    def wait_until_training(self) -> bool:
        """Wait for the line of the first iteration."""
        return self.wait_for(lambda: ITERATION.search(self.said()) is not None)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal, if the process is still running."""
        if self.process.is_alive():
            os.kill(self.process.pid, signum)

    def end(self) -> Ending:
        """Wait for the process to end."""
        return self._join(self.process)

    def workers(self) -> list[int]:
        """Process ids of its loaders."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.is_file() else []

    def run_undisturbed(self) -> dict:
        """Measure a whole run, and remove its files; returns its last snapshot."""
        began = time.monotonic()
        self.start()
        self.end().expect(0)
        self.seconds = time.monotonic() - began
        result = self.result()
        self.reset()
        return result

    def reset(self) -> None:
        """Remove the run's files."""
        shutil.rmtree(self.log_dir, ignore_errors=True)
        self.process = None

    def result(self) -> dict:
        """The last snapshot of a finished run. Raises Failed if a half-written file is left."""
        if left := list(self.snapshot_dir.glob(".*.part")):
            raise Failed(f"left half-written: {left}")
        return torch.load(self.snapshot_dir / LAST, weights_only=True)

    def _fork(self, task: Callable[[], None], inject: Callable[[], None] | None = None) -> multiprocessing.Process:
        # One file per process: orphans of the previous process may still write.
        self._output = self.folder / f"output_{uuid.uuid4().hex}.txt"
        self._output.touch()
        process = self.context.Process(target=_in_process, args=(task, self._output, inject))
        process.start()
        return process

    def _join(self, process: multiprocessing.Process) -> Ending:
        end = time.monotonic() + HANG_SECONDS
        while process.is_alive():  # join() would wait for the orphaned loaders of a killed process, too
            if time.monotonic() > end:
                process.kill()
                raise Failed(f"hangs: ...{self.said()[-2000:]}")
            time.sleep(POLL_SECONDS)
        return Ending(process.exitcode, self.said())


def _in_process(task: Callable[[], None], output: Path, inject: Callable[[], None] | None) -> None:
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ["COLUMNS"] = WIDE
    tempfile.tempdir = str(output.parent)  # files of killed processes are removed with the folder
    if inject:
        inject()
    run(task)


def same_weights(one: dict, other: dict) -> bool:
    """True if two snapshots have the same networks and momenta, bit for bit."""

    def same(a: object, b: object) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return a == b

    keys = ("model", *filter(OPTIMIZER.fullmatch, one), "epoch", "iteration")
    return all(same(one.get(key), other.get(key)) for key in keys)
