"""Run several processes on one machine, and start them again if one is killed.

PyTorch's own launcher kills the processes 30 seconds after it forwards a signal: too early for a slow disk.
"""

import math
import os
import signal
import subprocess
import sys
import time

from furnace.utils.errors import SIGNAL_BASE, Stopped, UserError
from furnace.utils.stopping import SAVING, STOPPING, heeded, ignore_saving

SAVED = tuple(SIGNAL_BASE + signum for signum in STOPPING)
ECHO_SECONDS = 0.5  # launchers signal a process and its group: a signal so soon after the first repeats it
POLL_SECONDS = 0.1
GRACE_SECONDS = 60  # for the other processes after one has failed: they may wait for it forever
LAST_SECONDS = 5  # after a second signal
HOST = "127.0.0.1"


def run_processes(count: int, command: list[str], restarts: int = 0) -> int:
    """Run `command`, a Python script with arguments, in `count` connected processes; return their status.

    If one is killed, all are started again, up to `restarts` times, and learn that from the environment, as from
    torchrun: they continue from the last save. Not after an error of the program, which would only be repeated. Signals
    are forwarded, and the processes get the time that they need.

    Raises:
        Stopped: a signal came, and not all processes ended by themselves.
        UserError: a process was killed after the last restart.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    hint = "; -c auto continues from the last save" if restarts else ""
    from torch.distributed import TCPStore

    # The store is in this process, so that none of the others has to find a free port, and all attempts share it.
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    for attempt in range(restarts + 1):
        processes = Processes(count, command, attempt, store.port)
        statuses = processes.run()
        if received := processes.received:
            name, status = signal.Signals(received[0]).name, SIGNAL_BASE + received[0]
            if set(statuses) <= {0, status}:
                return max(statuses)
            raise Stopped(f"{name}; not all processes ended by themselves{hint}", status)
        if processes.failed is None:
            return max(statuses)
        if statuses[processes.failed] > 0:
            return statuses[processes.failed]
        ended = f"process {processes.failed} was ended by {signal.Signals(-statuses[processes.failed]).name}"
        if attempt < restarts:
            print(f"{ended}; starting again from the last save", file=sys.stderr)
    times = f", after {restarts} restarts" if restarts else ""
    raise UserError(f"{ended}{times}; SIGKILL usually means that memory ran out: see dmesg, lower C.num_workers{hint}")


class Processes:
    """Processes of one command, connected as by torchrun.

    Attributes:
        received: signals that this process received, without the one that only asks to save.
        failed: number of the first process that ended by an error or by a signal from elsewhere, None if none did.
    """

    def __init__(self, count: int, command: list[str], attempt: int, port: int):
        self.count, self.command = count, [sys.executable, *command]
        self.attempt, self.port = attempt, port
        self.processes: list[subprocess.Popen] = []
        self.received: list[int] = []
        self.pending: list[int] = []  # signals to forward
        self.failed: int | None = None
        self.first, self.deadline = math.inf, math.inf  # times of the first signal and of the kill

    def run(self) -> list[int]:
        """Start all processes and wait for them; return their statuses, negative if a signal ended them."""
        common = {"MASTER_ADDR": HOST, "MASTER_PORT": str(self.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"TORCHELASTIC_RESTART_COUNT": str(self.attempt), "WORLD_SIZE": str(self.count)}
        passed_on = (*heeded(), signal.SIGQUIT, SAVING)
        previous = {signum: signal.signal(signum, self._note) for signum in passed_on}
        try:
            ignore_saving()  # the processes inherit this, until they have something to save
            for number in map(str, range(self.count)):
                environment = {**os.environ, **common, "RANK": number, "LOCAL_RANK": number}
                self.processes.append(subprocess.Popen(self.command, env=environment))
            signal.signal(SAVING, self._note)
            while True:
                statuses = [process.poll() for process in self.processes]
                self._look_after(statuses)
                if None not in statuses:
                    return statuses
                time.sleep(POLL_SECONDS)
        finally:
            self._send(signal.SIGKILL)
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, _) -> None:
        self.pending.append(signum)
        if signum != SAVING:
            self.received.append(signum)

    def _look_after(self, statuses: list[int | None]) -> None:
        """Forward signals; after a failed process or a second signal, kill the processes that do not end in time."""
        now = time.monotonic()
        while self.pending:
            signum = self.pending.pop(0)
            self._send(signum)
            if signum == SAVING:
                continue
            self.first = min(self.first, now)
            if now - self.first > ECHO_SECONDS:
                self.deadline = min(self.deadline, now + LAST_SECONDS)
        failed = [rank for rank, status in enumerate(statuses) if status not in (None, 0, *SAVED)]
        if failed and self.failed is None and not self.received:
            # If several failed, the killed ones caused the others' errors.
            self.failed = min(failed, key=lambda rank: statuses[rank] > 0)
            self._send(signal.SIGTERM)
            self.deadline = now + GRACE_SECONDS
        if now > self.deadline:
            self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        for process in self.processes:
            process.send_signal(signum)  # does nothing if the process has ended
