"""The folder of a run's snapshots: the autosave, which one to continue from, and how many stay."""

import os
import shutil
from collections import Counter
from pathlib import Path

from furnace.engine.checkpoint import LAST, Snapshot, check_finite, list_epochs, load_snapshot, read_progress
from furnace.utils.errors import UserError
from furnace.utils.files import part_of, replacing

AUTOSAVE = "autosave.pth"  # may be of any iteration; there is only the latest
AUTO = "auto"


def copy_as_last(path: Path) -> None:
    """Make `epoch-last.pth` the same file as `path`; a hard link where the disk knows them."""
    with replacing(path.with_name(LAST), path.stat().st_size) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)


def list_saves(folder: str | Path) -> list[Path]:
    """Everything a run can be continued from, the latest saved first.

    The latest need not be the furthest: a run may have gone back to an earlier epoch. Of files with the same time, as
    coarse clocks and careless copies leave them, the furthest comes first.
    """
    folder = Path(folder)
    named = [path for path in (folder / AUTOSAVE, folder / LAST) if path.is_file()]
    epochs = list(reversed(list_epochs(folder).values()))
    found = {path: path.stat() for path in [*epochs, *named]}
    # Hard links are one file: which of its names comes first does not matter.
    files = {(status.st_mtime_ns, status.st_ino) for status in found.values()}
    sharing = Counter(time for time, _ in files)

    def order(path: Path) -> tuple:
        time = found[path].st_mtime_ns
        return (time, *read_progress(path)) if sharing[time] > 1 else (time,)

    return sorted(found, key=order, reverse=True)


def newest_sound(folder: str | Path) -> tuple[Path, Snapshot, list[str]] | None:
    """The latest save that can be continued from, and what is wrong with those after it; None without any save.

    Raises:
        UserError: there are saves, but all are damaged.
    """
    faults: list[str] = []
    saves = list_saves(folder)
    for path in saves:
        try:
            snapshot = load_snapshot(path)
            check_finite(snapshot, path)
        except UserError as error:
            faults.append(str(error))
            continue
        return path, snapshot, faults
    if saves:
        raise UserError(f"{folder}: none of {len(saves)} snapshots can be read, the latest: {faults[0]}")
    return None


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Remove all but the `keep` epochs that were saved last, 0 for none; returns what was removed.

    Of epochs saved at the same time, as far as the disk can tell, the later ones stay.
    """
    epochs = sorted(list_epochs(folder).values(), key=lambda path: path.stat().st_mtime_ns)  # keeps the order of equals
    surplus = epochs[: len(epochs) - keep] if keep else []
    for path in surplus:
        path.unlink(missing_ok=True)
    return surplus


def clear(folder: str | Path) -> int:
    """Remove the snapshots of an earlier run, and what a killed one left; returns how many snapshots there were."""
    saves = list_saves(folder)
    for path in saves:
        path.unlink(missing_ok=True)
    sweep(folder)
    return len(saves)


def sweep(folder: str | Path) -> None:
    """Remove the unfinished file that a run killed while saving has left."""
    for unfinished in Path(folder).glob(part_of(Path("*.pth")).name):
        unfinished.unlink(missing_ok=True)
