"""Writing files whole or not at all: what stands under its name is complete, whenever a run was interrupted."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from furnace.utils.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name next to `path`, then rename. Raises UserError, as on a full disk."""
    with _replacing(path) as part:
        part.write_bytes(data)


def link_atomically(path: Path, source: Path) -> None:
    """Make `path` a hard link to `source`, or a symbolic one where they lie on different disks. Raises UserError."""
    source = source.resolve()
    with _replacing(path) as part:
        try:
            os.link(source, part)
        except OSError:
            part.symlink_to(source)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` if all goes well, and is gone afterwards in any case."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"{path}: no space left on the disk; make room and run the same command again, it goes on from here"
            ) from error
        raise UserError(f"{path}: can't be written ({error.strerror}); check the folder and its permissions") from error
    finally:
        # Two hard links to one file are left alone by a rename, hence after success, too.
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
