"""Signals stop a run after the current iteration, in all processes together, or make it save."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import active_children
from select import select
from threading import Thread, main_thread
from typing import TypeVar

import torch
import torch.distributed as dist

from furnace.engine.distributed import launched, rank, world_size
from furnace.engine.launcher import ECHO_SECONDS
from furnace.engine.monitor import logger
from furnace.utils.errors import SIGNAL_BASE
from furnace.utils.stopping import SAVING, heeded
from furnace.utils.terminal import leave_lost_terminal

POLL_SECONDS = 0.5
TOLD_SECONDS = 45  # without a batch, before the log reports it
BATCH_SECONDS = 10  # for the next batch after a signal: launchers and schedulers kill after 30
STUCK_SECONDS = 120  # for the iteration after a signal, or three times the longest one so far
Batch = TypeVar("Batch")


class LoaderHangs(Exception):
    """No batch came within the time limit after a signal."""


class StopSignals:
    """Context in which a first signal asks to stop and a second one ends the process at once; SIGUSR1 asks to save.

    A thread receives the signals, so that they end the process even if its main thread is stuck in a collective or a
    disk access. The end of the launcher that started this process counts as a signal, as no launcher remains to
    supervise the process.

    Use it as a context manager in the main thread.

    Args:
        reading: returns the files that the loaders read, for the warning about a missing batch.
    """

    def __init__(self, reading: Callable[[], str] = str):
        self.reading = reading
        self.parent = os.getppid() if launched() else None
        self.received, self.since = 0, 0.0
        self.save_asked = self.answered = self.over = False
        self.waits_since: float | None = None  # start time of the wait for a batch
        self.told = False
        self.asked_at, self.longest = time.monotonic(), 0.0  # last call of `requested`, longest iteration
        self.torch_handler: Callable | None = None
        self.child_ended = False
        # NCCL can't reduce on the CPU, and a reduction on the GPU would make the host wait.
        shared_by_nccl = world_size() > 1 and dist.get_backend() != "gloo"
        self.group = dist.new_group(backend="gloo") if shared_by_nccl else None

    def __enter__(self) -> "StopSignals":
        self.heeded = heeded()
        self.ear, self.bell = socket.socketpair()
        self.bell.setblocking(False)
        # Python writes a byte for each signal with a handler, even while the main thread is busy.
        self.previous_bell = signal.set_wakeup_fd(self.bell.fileno(), warn_on_full_buffer=False)
        handlers = {**dict.fromkeys((*self.heeded, SAVING), _leave_to_thread), signal.SIGALRM: self._give_up}
        self.previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        return self

    def __exit__(self, *_) -> None:
        self.answered = True
        if self.torch_handler:
            signal.signal(signal.SIGCHLD, self.torch_handler)
        # After a signal the process will end soon: a second signal must still end it at once.
        if not self.received:
            for signum, handler in self.previous.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self.previous_bell)
            self.over = True
            self.bell.close()

    def watch(self) -> None:
        """Start the thread for signals, after PyTorch's loader has forked its workers (forks must precede threads).

        Replace the loader's handler for dead workers: it raises anywhere in the program, even during an update or a
        save. Instead, `requested` raises.
        """
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler):
            self.torch_handler = handler
            signal.signal(signal.SIGCHLD, self._note_child)
        Thread(target=self._hear, daemon=True).start()

    def awaited(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            LoaderHangs: no batch came after a signal to stop.
        """
        try:
            self.waits_since = time.monotonic()
            for batch in batches:
                self.waits_since = None
                yield batch
                self.waits_since = time.monotonic()
        finally:
            self.waits_since = None

    def requested(self) -> int:
        """The signal that any process of the run has received, 0 for none. All processes must call this together.

        Raises:
            RuntimeError: a loader's worker has died.
        """
        now = time.monotonic()
        self.asked_at, self.longest = now, max(self.longest, now - self.asked_at)
        if self.child_ended:
            self.child_ended = False
            self.torch_handler(signal.SIGCHLD, None)
        asked, self.save_asked = (self.received, self.save_asked), False
        if world_size() > 1:
            shared = torch.tensor(asked)
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.group)
            asked = shared.tolist()
        received, save = asked
        self.answered = bool(received)
        return received or (SAVING if save else 0)

    def _note_child(self, *_) -> None:
        self.child_ended = True

    def _give_up(self, *_) -> None:
        if self.received and self.waits_since is not None:
            raise LoaderHangs

    def _hear(self) -> None:
        while not self.over:
            if select([self.ear], [], [], POLL_SECONDS)[0]:
                for signum in self.ear.recv(64):
                    self._answer(signum)
            if self.parent not in (None, os.getppid()):
                self.parent = None
                say("the launcher of this process has ended", every=True)
                self._answer(signal.SIGTERM)
            self._look_after_batches()
            self._look_after_iteration()
        self.ear.close()

    def _answer(self, signum: int) -> None:
        now = time.monotonic()
        if signum == SAVING:
            self.save_asked = True
            say(f"{signal.Signals(signum).name}: saving after this iteration, then continuing")
        elif signum in self.heeded and not self.received:
            self.received, self.since = signum, now
            if signum == signal.SIGHUP:
                leave_lost_terminal()
            say(f"{signal.Signals(signum).name}: ending this iteration and saving; send it again to stop at once")
        elif signum in self.heeded and now - self.since > ECHO_SECONDS:
            stop_at_once(signum)

    def _look_after_batches(self) -> None:
        now, since = time.monotonic(), self.waits_since
        if since is None:
            self.told = False
            return
        if now - since > TOLD_SECONDS and not self.told:
            self.told = True
            logger.warning(
                f"no batch for {now - since:.0f} s; files being read by loaders: {self.reading()}; the run waits for "
                "them; SIGTERM ends it and saves"
            )
        if self.received and now - max(since, self.since) > BATCH_SECONDS:
            signal.pthread_kill(main_thread().ident, signal.SIGALRM)

    def _look_after_iteration(self) -> None:
        waits = time.monotonic() - self.since if self.received and not self.answered else 0
        if waits > max(STUCK_SECONDS, 3 * self.longest):
            say(f"the iteration has not ended {waits:.0f} s after the signal")
            stop_at_once(self.received)


def _leave_to_thread(*_) -> None:
    """Do nothing in the main thread: Python has written a byte for the thread that receives signals."""


def stop_at_once(signum: int) -> None:
    """End the process at once."""
    say("stopped at once; -c auto continues from the last save")
    for worker in active_children():  # a worker that hangs would stay alive
        worker.kill()
    os._exit(SIGNAL_BASE + signum)


def say(text: str, every: bool = False) -> None:
    """Write a line to the terminal in the first process, or in `every` process.

    It bypasses the log, which may be in the middle of another line.
    """
    if rank() == 0 or every:
        with suppress(OSError):  # no reader is left
            os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())
