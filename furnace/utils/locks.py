"""Folder locks: one run at a time writes into a folder."""

import fcntl
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from furnace.utils.errors import UserError
from furnace.utils.files import explained

LOCK, HOLDER = ".training.lock", ".training"  # the lock itself, and a description of its holder
# The loaders of a killed run, which may have inherited its lock, notice its end within five seconds.
WAIT_SECONDS = 10


@contextmanager
def locked(*folders: str | Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Make `folders` and keep other runs from writing into them until the block or the process ends.

    Args:
        warn: gets one line if a folder lies on a file system without locks; the block runs anyway.

    Raises:
        UserError: another run holds a folder, or it can't be made.
    """
    with ExitStack() as stack:
        for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
            stack.enter_context(_locked(folder, warn))
        yield


def try_lock(file: int) -> bool:
    """Lock an open file for this process and those that inherit it; False if another process holds it.

    Also True if the file system has no locks: then it can't be known.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def file_locked(path: Path, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Let one process at a time change a file; if the file system has no locks, the block runs without one.

    After `wait` seconds it runs without the lock, too; -1: never.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)
    with suppress(OSError, NotImplementedError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _locked(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # filelock's substitute for a system lock would outlive a killed run
            lock.acquire(timeout=WAIT_SECONDS)
    except Timeout:
        # Without a holder: an older filelock took the error of a file system without locks for another process's lock.
        if holder.is_file():
            raise UserError(
                f"{folder}: {holder.read_text(encoding='utf-8')} is training here; wait for it, stop it, or choose "
                "another folder (-o log_dir=...)"
            ) from None
        warn(_without_locks(folder, "no answer"))
    except (OSError, NotImplementedError, UserWarning) as error:
        warn(_without_locks(folder, error))
    else:
        with suppress(OSError):  # a full disk: the lock itself is held
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
            lock.release()


def _without_locks(folder: Path, reason: object) -> str:
    return f"{folder}: can't be locked ({reason}); no other run must write there until this one ends"
