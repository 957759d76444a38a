"""Several processes on one machine by PyTorch's own launcher, started again when one of them is killed."""

import logging
import os
import sys
import uuid
from signal import Signals

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from furnace.utils.errors import SIGNAL_BASE, Stopped, UserError

CONTINUE = ("-c", "auto")
OVERWRITE = "--overwrite"


def run_processes(count: int, command: list[str], restarts: int = 0) -> int:
    """Run `command`, a Python script with arguments, in `count` processes that find each other; returns their status.

    Where one of them is killed, all are started again with `-c auto`, up to `restarts` times; an error that a process
    ends with by itself would only come again.

    Raises:
        Stopped: a signal came; the processes were given it and have ended.
        UserError: they were killed once more than that.
    """
    # The launcher's own log repeats at length what the processes say.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    for attempt in range(restarts + 1):
        try:
            words = [*(word for word in command if word != OVERWRITE), *CONTINUE] if attempt else command
            elastic_launch(_config(count), sys.executable)(*words)
            return 0
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                return failure.exitcode
            name = Signals(-failure.exitcode).name
        except SignalException as error:
            raise Stopped(
                f"{error.sigval.name}; -c auto goes on from the last save", SIGNAL_BASE + error.sigval
            ) from None
        left = restarts - attempt
        if left:
            print(f"process {rank} was ended by {name}; starting again from the last save", file=sys.stderr)
    raise UserError(
        f"a process was ended by {name} {restarts + 1} times; a SIGKILL mostly means that memory ran out: see "
        "dmesg, lower C.num_workers; -c auto goes on from the last save"
    )


def _config(count: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
