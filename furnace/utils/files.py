"""Write files completely or not at all, whenever a run is interrupted."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from furnace.utils.errors import UserError
from furnace.utils.wording import byte_size

PART = ".part"
NAME_SHOWN = 40  # characters of a name in its temporary name, which must not be too long
FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of file systems that can't flush a folder: network, FUSE and shared folders of virtual machines.
NO_WAIT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF)


def write_atomically(path: Path, data: bytes, flush: bool = True) -> None:
    """Write `data` under a temporary name next to `path`, then rename. Raises UserError, as on a full disk.

    Without `flush` it is much faster, but a power failure can leave the file incomplete.
    """
    with replacing(path, len(data), flush) as part:
        part.write_bytes(data)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files: every content is on the disk before the first name changes.

    Raises:
        UserError: one can't be written; then no file has changed, unless a rename failed.
    """
    with ExitStack() as stack:
        for path, data in contents.items():
            stack.enter_context(replacing(path, len(data))).write_bytes(data)


def append(path: Path, data: bytes) -> None:
    """Append `data` to a file, completely or not at all: half a record would damage later ones. Raises OSError."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if file.write(data) < len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def link_atomically(path: Path, source: Path) -> None:
    """Make `path` a hard link to `source`, a symbolic link on another disk, or a copy if links are not supported.

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
    """The path, or the nearest existing folder above it."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def part_of(path: Path) -> Path:
    """A temporary name for `path` that no other writer has; it is hidden, in case a killed run leaves it."""
    return path.with_name(f".{path.stem[:NAME_SHOWN]}.{token_hex(8)}{path.suffix}{PART}")


def unfinished(folder: Path, suffix: str = "") -> list[Path]:
    """Unfinished files with a suffix that killed runs have left in a folder."""
    return list(folder.glob(f".*{suffix}{PART}"))


@contextmanager
def replacing(path: Path, needed: int | None = None, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` on success and is removed in any case.

    Args:
        path: the file to make or replace; until the end of the block it stays as it was.
        needed: its size in bytes if known, for the message about a full disk.
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
        # A rename does nothing if both names are hard links to one file, so remove it after success, too.
        with suppress(OSError):  # a read-only disk has no such file, but refuses to remove it
            part.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of writing within the block into a UserError, about `path` if the error names no file."""
    try:
        yield
    except OSError as error:
        raise _explained(Path(error.filename or path), error, None) from error


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk: a rename alone may come first.

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
        f"{path}: no space left on the disk ({size}{byte_size(free)} are free); existing files are kept; "
        "make room and run the same command again"
    )
