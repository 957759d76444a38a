"""SIGTERM and SIGINT end the current iteration instead of the process, on all processes of a run together."""

import os
import signal
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from furnace.engine.distributed import rank, world_size
from furnace.engine.launcher import ECHO_SECONDS, SIGNALS
from furnace.utils.errors import SIGNAL_BASE


class StopSignals:
    """Context in which a first signal asks to stop and a second one ends the process at once.

    A context manager for the main thread.
    """

    def __init__(self):
        self.received = 0
        self.since = 0.0
        self.torch_handler: Callable | None = None
        self.child_ended = False
        # NCCL can't reduce on the CPU, and on the GPU asking would mean waiting for it.
        shared_by_nccl = world_size() > 1 and dist.get_backend() != "gloo"
        self.group = dist.new_group(backend="gloo") if shared_by_nccl else None

    def __enter__(self) -> "StopSignals":
        self.previous = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        # After a signal the process is about to end: a second one still ends it at once.
        if not self.received:
            for signum, handler in self.previous.items():
                signal.signal(signum, handler)
        if self.torch_handler:
            signal.signal(signal.SIGCHLD, self.torch_handler)

    def defer_child_errors(self) -> None:
        """Take over from PyTorch's loader, once it has started its workers, to say when one has died.

        It raises wherever the program happens to be, in the middle of an update or a save; here `requested` does.
        """
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler):
            self.torch_handler = handler
            signal.signal(signal.SIGCHLD, self._note_child)

    def requested(self) -> int:
        """The signal that any process of the run has received, 0 for none. All processes must ask together.

        Raises:
            RuntimeError: a loader's worker has died.
        """
        if self.child_ended:
            self.child_ended = False
            self.torch_handler(signal.SIGCHLD, None)
        if world_size() == 1:
            return self.received
        received = torch.tensor(self.received)
        dist.all_reduce(received, dist.ReduceOp.MAX, group=self.group)
        return int(received)

    def _note_child(self, *_) -> None:
        self.child_ended = True

    def _handle(self, signum: int, _) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self.since = signum, now
            say(f"{signal.Signals(signum).name}: ending this iteration and saving; once more to stop at once")
        elif now - self.since > ECHO_SECONDS:
            say("stopped at once; -c auto goes on from the last save")
            os._exit(SIGNAL_BASE + signum)


def say(text: str) -> None:
    """Write a line of the first process to the terminal from a signal handler: a logger may be in the middle of another
    one."""
    if rank() == 0:
        os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())
