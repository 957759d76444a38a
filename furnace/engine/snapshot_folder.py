"""The folder of a run's snapshots: list them, choose one to continue from, remove old ones."""

import math
import os
import re
import shutil
from pathlib import Path

from furnace.engine.snapshots import UNKNOWN, Snapshot, check_finite, load_snapshot, read_progress
from furnace.utils.errors import UserError
from furnace.utils.files import replacing, unfinished
from furnace.utils.weights import SUFFIXES

LAST = "epoch-last.pth"
AUTOSAVE = "autosave.pth"  # of any iteration; only the latest is kept


def list_epochs(folder: str | Path) -> dict[int, Path]:
    """The snapshots `epoch-N.pth` of a folder, by epoch in ascending order."""
    found = {}
    for path in Path(folder).glob("epoch-*.pth"):
        if match := re.fullmatch(r"epoch-(\d{1,9})\.pth", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def list_snapshots(folder: str | Path) -> list[Path]:
    """Every snapshot from which a run can be continued, the furthest first, after files of unknown progress.

    The furthest is the latest: a run that goes back moves its later saves to another folder. Times of files do not
    tell it after a copy, or with a wrong clock.
    """
    progress: dict[Path, tuple[float, int]] = {path: (epoch, 0) for epoch, path in list_epochs(folder).items()}
    for path in (Path(folder) / AUTOSAVE, Path(folder) / LAST):
        if path.is_file():
            epoch, iteration = read_progress(path)
            known = (epoch, iteration if path.name == AUTOSAVE else -1)  # the last one is a copy of its epoch's
            progress[path] = (math.inf, 0) if (epoch, iteration) == UNKNOWN else known
    return sorted(progress, key=progress.__getitem__, reverse=True)


def newest_sound(folder: str | Path) -> tuple[Snapshot | None, list[str]]:
    """The latest undamaged snapshot, None if there is none, and the faults of later ones.

    Raises:
        UserError: there are snapshots, but all are damaged.
    """
    faults: list[str] = []
    saves = list_snapshots(folder)
    for path in saves:
        try:
            snapshot = load_snapshot(path)
            check_finite(snapshot)
        except UserError as error:
            faults.append(str(error))
            continue
        return snapshot, faults
    if saves:
        raise UserError(f"{folder}: none of {len(saves)} snapshots can be read, the latest: {faults[0]}")
    return None, []


def copy_as_last(path: Path) -> None:
    """Make `epoch-last.pth` the same file as `path`; a hard link if the disk supports it."""
    with replacing(path.with_name(LAST), path.stat().st_size) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Remove all epochs but the last `keep` (0: keep all); return the removed files."""
    epochs = list(list_epochs(folder).values())
    surplus = epochs[: max(0, len(epochs) - keep)] if keep else []
    for path in surplus:
        path.unlink(missing_ok=True)
    return surplus


def clear(folder: str | Path) -> int:
    """Remove the snapshots of an earlier run, and unfinished files; return the number of snapshots."""
    saves = list_snapshots(folder)
    for path in saves:
        path.unlink(missing_ok=True)
    sweep(folder)
    return len(saves)


def sweep(folder: str | Path) -> None:
    """Remove the unfinished file of a run that was killed while saving."""
    for path in unfinished(Path(folder), ".pth"):
        path.unlink(missing_ok=True)


def find_snapshots(which: str, folder: str | Path) -> list[Path]:
    """The snapshots that `which` names: PATH.pth, EPOCH, FIRST-LAST, FIRST- or "last".

    Raises:
        UserError: the text has another form, or nothing matches; the message lists the existing snapshots.
    """
    which = which.strip()
    if which.endswith(SUFFIXES) or os.sep in which:
        if not Path(which).exists():
            raise UserError(f"-e {which}: no such file")
        return [Path(which)]
    available = list_epochs(folder)
    epochs = f"epoch{'s' if len(available) > 1 else ''} {', '.join(map(str, available))}"
    have = f"{folder} holds {epochs if available else 'no snapshots: train first'}"
    if which == "last":
        if (Path(folder) / LAST).is_file():
            return [Path(folder) / LAST]
        raise UserError(f"-e last: no {LAST}; {have}")
    match = re.fullmatch(r"(\d{1,9})(-?)(\d{0,9})", which, flags=re.ASCII)
    if not match or (match[3] and not match[2]):
        raise UserError(f"-e {which}: use PATH.pth, EPOCH, FIRST-LAST, FIRST-, last or best; {have}")
    first = int(match[1])
    last = int(match[3]) if match[3] else (max(available, default=first) if match[2] else first)
    if first > last:
        raise UserError(f"-e {which}: the range is reversed; {have}")
    chosen = [path for epoch, path in available.items() if first <= epoch <= last]
    if not chosen:
        raise UserError(f"-e {which}: no such snapshot; {have}")
    return chosen
