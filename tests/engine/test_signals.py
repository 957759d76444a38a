"""Signals end a run even if it hangs; a lost terminal and `nohup` cause no errors."""

import ctypes
import os
import pty
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import pytest
import torch
from rich.console import Console

from furnace.datasets.reading import Files
from furnace.engine import signals
from furnace.engine.signals import StopSignals
from furnace.engine.snapshot_folder import AUTOSAVE
from furnace.engine.trainer import Trainer
from furnace.utils.errors import SIGNAL_BASE, Stopped
from furnace.utils.stopping import SAVING, STOPPING, heeded
from furnace.utils.terminal import leave_lost_terminal
from tests.tiny_run import NARROW


def forked(body: Callable[[], None]) -> int:
    """Start a process that runs `body` and ends with 0, or with 1 after an error."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stuck(bell: int) -> None:
    """Wait in C forever, as in a collective whose other machine is gone: no further line of Python runs."""
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    with StopSignals() as stopping:
        stopping.watch()
        os.write(bell, b"in")
        lock(mutex)


@pytest.fixture
def stuck_process() -> Iterator[int]:
    listener, bell = os.pipe()
    pid = forked(lambda: stuck(bell))
    assert os.read(listener, 2) == b"in"
    yield pid
    os.close(listener)
    os.close(bell)


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch, stuck_process: int) -> None:
    os.kill(stuck_process, signal.SIGINT)
    time.sleep(0.1)
    os.kill(stuck_process, signal.SIGINT)  # this soon, it counts as an echo of the first
    time.sleep(signals.ECHO_SECONDS + 0.1)
    assert os.waitpid(stuck_process, os.WNOHANG) == (0, 0)
    os.kill(stuck_process, signal.SIGTERM)
    assert status_of(stuck_process) == SIGNAL_BASE + signal.SIGTERM


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "TOLD_SECONDS", "BATCH_SECONDS"):
        monkeypatch.setattr(signals, name, 0.1)


@pytest.fixture
def very_impatient(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "STUCK_SECONDS", 0.1)


def test_one_signal_ends_a_hanging_iteration(very_impatient: None, stuck_process: int) -> None:
    os.kill(stuck_process, SAVING)
    os.kill(stuck_process, signal.SIGTERM)
    assert status_of(stuck_process) == SIGNAL_BASE + signal.SIGTERM


def test_the_end_of_the_launcher_is_a_signal_to_stop(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    listener, bell = os.pipe()

    def train() -> None:
        with StopSignals() as stopping:
            stopping.watch()
            os.write(bell, b"in")
            while not (signum := stopping.requested()):
                time.sleep(0.01)
            os.write(bell, bytes([signum]))

    def launch() -> None:
        forked(train)
        assert os.read(listener, 2) == b"in"

    assert status_of(forked(launch)) == 0
    assert os.read(listener, 1) == bytes([signal.SIGTERM])
    os.close(listener)
    os.close(bell)


class HangingFiles(Files):
    """A disk that never answers for one image."""

    hangs: Path

    def image(self, path: Path):
        if path == self.hangs:
            time.sleep(600)
        return super().image(path)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers after a test: a run that is about to end leaves its own in place."""
    chosen = (*STOPPING, SAVING, signal.SIGALRM, signal.SIGCHLD)
    previous = {signum: signal.getsignal(signum) for signum in chosen}
    yield
    signal.set_wakeup_fd(-1)
    for signum, handler in previous.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("impatient", "handlers")
def test_a_hanging_loader_is_reported_and_one_signal_saves(make_settings, tmp_path: Path) -> None:
    folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
    C = make_settings(**NARROW, **folders, method="supervised", num_workers=2)
    trainer = Trainer(C, torch.device("cpu"), console=Console(quiet=True))
    trainer.dataset.files = HangingFiles(C.num_classes)
    first = [trainer.dataset.sample(0, position, 0).image for position in range(3)]
    hangs = next(path for p in range(3, 18) if (path := trainer.dataset.sample(p // 9, p % 9, 0).image) not in first)
    trainer.dataset.files.hangs = hangs
    log = tmp_path / "log" / "log_last.log"

    def terminate() -> None:
        while not log.exists() or str(hangs) not in log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=terminate, daemon=True).start()
    with pytest.raises(Stopped) as stopped:
        trainer.fit()
    assert stopped.value.status == SIGNAL_BASE + signal.SIGTERM
    assert f"files being read by loaders: {hangs}" in log.read_text()
    saved = torch.load(Path(C.snapshot_dir) / AUTOSAVE, weights_only=True)
    assert saved["iteration"] == trainer.iteration > 0
    assert not active_children(), "Python would wait for them for ever"


@pytest.mark.parametrize("handler, answered", [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_nohup_is_respected(handler: signal.Handlers, answered: bool) -> None:
    previous = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in heeded()) == answered
        with StopSignals():
            assert (signal.getsignal(signal.SIGHUP) == handler) != answered
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_output_to_a_lost_terminal_is_dropped(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)

    def body() -> None:
        os.dup2(terminal, 1)
        os.dup2(file, 2)
        os.close(main)
        for _ in range(2):
            leave_lost_terminal()
            os.write(1, b"line")
            os.write(2, b"line")

    pid = forked(body)
    os.close(main)
    os.close(terminal)
    assert status_of(pid) == 0
    assert (tmp_path / "file").read_bytes() == b"lineline"
