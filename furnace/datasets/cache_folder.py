"""Folders of decoded images: locks between processes, free space, and removal of a folder in memory after use."""

import errno
import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from furnace.utils.errors import UserError
from furnace.utils.files import existing_part
from furnace.utils.locks import try_lock
from furnace.utils.terminal import process_number

OFF, RAM = "off", "ram"
MEMORY = Path("/dev/shm")
MEMORY_STATE = Path("/proc/meminfo")
FILLING = ".filling"  # the writing process holds its lock


def locate(setting: str) -> Path:
    """The folder of a `C.cache` other than "off". Raises UserError if this machine has no folder in memory."""
    if setting != RAM:
        return Path(setting).absolute()
    if not MEMORY.is_dir():
        raise UserError(f"C.cache = {RAM}: this system has no {MEMORY}; name a folder, or set C.cache = {OFF}")
    return MEMORY / f"furnace-cache-{os.getuid()}"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk, or in the memory, of `folder`."""
    free = shutil.disk_usage(existing_part(folder)).free
    if MEMORY in folder.parents and MEMORY_STATE.is_file():
        # The file system in memory may promise more than the machine has left.
        lines = dict(line.split(":") for line in MEMORY_STATE.read_text().splitlines())
        free = min(free, 1024 * int(lines["MemAvailable"].split()[0]))
    return free


@contextmanager
def writing(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Be the only process that writes to `folder`; yields False if `wait` is False and another process writes.

    Raises:
        UserError: the folder can't be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / FILLING, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); name another folder in C.cache") from error
    try:
        locked = try_lock(lock)
        if wait and not locked:
            if process_number() == 0:
                Console(stderr=True).print(f"waiting for another process that fills {folder}", highlight=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(lock)


def hold(user: object, folder: Path, wanted: set[str]) -> None:
    """Use `folder` as long as `user` exists in this process; the last user in all processes removes it.

    The first user removes files that a killed run has left, except those in `wanted`.

    Raises:
        UserError: the folder can't be created, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # anybody can create a folder of this name in memory
            raise PermissionError(errno.EPERM, "it belongs to another user")
        lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be used ({error.strerror}); name a folder in C.cache, or set {OFF}"
        ) from error
    if try_lock(lock) and folder.is_dir():
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
    fcntl.flock(lock, fcntl.LOCK_SH)
    weakref.finalize(user, _release, lock, folder, os.getpid())


def _release(lock: int, folder: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a worker process that ends
    if try_lock(lock):
        shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
