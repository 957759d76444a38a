"""Connect the processes of a run through a store that may contain entries of earlier attempts.

After a fault torchrun restarts the processes of all machines with the same store. It tells each process the number of
restarts of its own machine, which differs on machines whose processes did not fail.
"""

import hashlib
import json
import time
import uuid

from torch.distributed import Store

from furnace.utils.errors import UserError

PATIENCE_SECONDS = 600  # for a missing process: its machine may still be loading libraries
POLL_SECONDS = 0.05


def meet(store: Store, number: int, count: int, restarts: int) -> tuple[str, int]:
    """Wait for the other processes; return a name that only these processes share, and the number of restarts.

    Args:
        store: shared by all processes.
        number, count: rank of this process, and number of processes.
        restarts: number of restarts known to this process.

    Raises:
        UserError: a process did not join within `PATIENCE_SECONDS`.
    """
    own = f"{restarts} {uuid.uuid4().hex}"
    store.set(f"present {number}", own)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        if number == 0:
            _call_roll(store, count)
        roll = _read_roll(store)
        # An older roll may name processes that have ended: not all of its processes will answer.
        if number < len(roll) and roll[number] == own:
            name = _name(roll)
            store.set(f"{name} {number}", "")
            if store.check([f"{name} complete"]):
                return name, int(store.get(f"{name} complete"))
        if time.monotonic() > end:
            raise UserError(f"process {_missing(store, count)} of {count} did not join; see the output on its machine")
        time.sleep(POLL_SECONDS)


def _call_roll(store: Store, count: int) -> None:
    """In the first process, list the processes that are present; mark the list as complete once all have answered."""
    keys = [f"present {number}" for number in range(count)]
    if not store.check(keys):
        return
    roll = [store.get(key).decode() for key in keys]
    store.set("roll", json.dumps(roll))
    name = _name(roll)
    if store.check([f"{name} {number}" for number in range(count)]) and not store.check([f"{name} complete"]):
        known = max(int(entry.split()[0]) for entry in roll)
        store.set(f"{name} complete", str(max(known, store.add("attempts", 1) - 1)))


def _read_roll(store: Store) -> list[str]:
    return json.loads(store.get("roll")) if store.check(["roll"]) else []


def _name(roll: list[str]) -> str:
    return hashlib.blake2b("\n".join(roll).encode(), digest_size=8).hexdigest()


def _missing(store: Store, count: int) -> str:
    """Numbers of the processes that never came or, if the first one has called the roll, did not answer."""
    roll = _read_roll(store)
    sign = _name(roll) if roll else "present"
    missing = [str(number) for number in range(count) if not store.check([f"{sign} {number}"])]
    return ", ".join(missing) or "0"
