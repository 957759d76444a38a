"""Writing files whole or not at all: what stands under its name is complete, whenever a run was interrupted."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from furnace.utils.errors import UserError
from furnace.utils.wording import byte_size

PART = ".part"
NAME_SHOWN = 40  # characters of a name in the temporary one, so that it is never too long
FULL = (errno.ENOSPC, errno.EDQUOT)
# The answers of file systems that can't wait for a folder: network, FUSE and shared folders of virtual machines.
NO_WAIT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF)


def write_atomically(path: Path, data: bytes, flush: bool = True) -> None:
    """Write `data` under a temporary name next to `path`, then rename. Raises UserError, as on a full disk.

    Without `flush` it is much faster, and a power failure, but nothing less, can leave a file incomplete.
    """
    with replacing(path, len(data), flush) as part:
        part.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    """Add `data` to a file, all of it or nothing: half a record would spoil those that come later. Raises OSError."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if file.write(data) < len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def link_atomically(path: Path, source: Path) -> None:
    """Make `path` a hard link to `source`, a symbolic one on another disk, or a copy on one that knows neither.

    Raises UserError.
    """
    source = source.resolve()
    with replacing(path, flush=False) as part:
        for link in (os.link, os.symlink):
            with suppress(OSError):
                link(source, part)
                return
        shutil.copyfile(source, part)


def existing_part(path: Path) -> Path:
    """The path itself, or what there is of the folders above it: where it would be made."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def part_of(path: Path) -> Path:
    """A temporary name for `path` that no other writer has; what a killed run leaves of it is hidden."""
    return path.with_name(f".{path.stem[:NAME_SHOWN]}.{token_hex(8)}{path.suffix}{PART}")


def unfinished(folder: Path, suffix: str = "") -> list[Path]:
    """What killed runs have left in a folder of files with a suffix that they had not finished."""
    return list(folder.glob(f".*{suffix}{PART}"))


@contextmanager
def replacing(path: Path, needed: int | None = None, flush: bool = True) -> Iterator[Path]:
    """A temporary path that becomes `path` if all goes well, and is gone in any case.

    Args:
        path: the file to make or replace; until the end of the block it stays as it was.
        needed: its size in bytes where known, for the message of a full disk.
        flush: wait until it is on the disk.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if flush:
            _flush(part)
        part.replace(path)
        if flush:
            _flush(path.parent)
    except OSError as error:
        raise _explained(path, error, needed) from error
    finally:
        # Two hard links to one file are left alone by a rename, hence after success, too.
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the disk refuses within the block into a UserError, about `path` where the refusal names no file."""
    try:
        yield
    except OSError as error:
        raise _explained(Path(error.filename or path), error, None) from error


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk: a rename alone may overtake it.

    If a file system can't do that for a folder, do not wait: the file is there, and only a power failure could undo it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_WAIT or not path.is_dir():
            raise


def _explained(path: Path, error: OSError, needed: int | None) -> UserError:
    if error.errno not in FULL:
        return UserError(f"{path}: can't be written ({error.strerror or error}); check the folder and its permissions")
    size = f"{byte_size(needed)} are needed, " if needed else ""
    free = shutil.disk_usage(existing_part(path.parent)).free
    return UserError(
        f"{path}: no space left on the disk ({size}{byte_size(free)} are free); what was there is kept; "
        "make room and run the same command again, it goes on from here"
    )
