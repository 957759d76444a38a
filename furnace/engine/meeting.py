"""Let the processes of a run meet in a store that may remember earlier attempts.

After a fault torchrun starts the processes of all machines again over the same store. It tells each of them how often
its own machine began again, which is another number on a machine whose processes were not at fault.
"""

import hashlib
import json
import time
import uuid

from torch.distributed import Store

from furnace.utils.errors import UserError

PATIENCE_SECONDS = 600  # for a process that does not come: its machine may still be reading its libraries
POLL_SECONDS = 0.05


def meet(store: Store, number: int, count: int, restarts: int) -> tuple[str, int]:
    """Wait for the other processes; return a name that only these processes share, and the number of restarts.

    Args:
        store: that all see.
        number, count: which of how many processes this one is.
        restarts: those that this process knows of.

    Raises:
        UserError: processes have not come.
    """
    own = f"{restarts} {uuid.uuid4().hex}"
    store.set(f"present {number}", own)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        if number == 0:
            _call_roll(store, count)
        roll = _read_roll(store)
        # An older roll may name processes that are gone: it is never answered by all.
        if number < len(roll) and roll[number] == own:
            name = _name(roll)
            store.set(f"{name} {number}", "")
            if store.check([f"{name} complete"]):
                return name, int(store.get(f"{name} complete"))
        if time.monotonic() > end:
            raise UserError(f"process {_missing(store, count)} of {count} has not come; see its machine's output")
        time.sleep(POLL_SECONDS)


def _call_roll(store: Store, count: int) -> None:
    """As the first process, name those that are present, until all of them have answered."""
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
    name = _name(_read_roll(store))
    missing = [str(number) for number in range(count) if not store.check([f"{name} {number}"])]
    return ", ".join(missing) or "0"
