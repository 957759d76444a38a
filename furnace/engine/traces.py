"""Files of a run beside its snapshots: removed if the run is replaced, moved if the run goes back."""

import json
import re
import shutil
from pathlib import Path

from furnace.engine.record import REPORT, RESULTS, TRAINING_METRICS, TRUTH
from furnace.engine.snapshot_folder import list_snapshots
from furnace.engine.snapshots import read_progress
from furnace.utils.files import explained, write_atomically
from furnace.utils.settings import Settings

STRIPS, PREDICTIONS, TENSORBOARD = "strips", "predictions", "tb"
LINES = (TRAINING_METRICS, TRUTH)  # records by iteration
# Files of a run beside its snapshots, but for text logs and folders of wandb, whose names contain the time.
TRACES = (RESULTS, REPORT, *LINES, STRIPS, PREDICTIONS, TENSORBOARD)
ABANDONED, EARLIER = "abandoned", "earlier"


def clear_traces(log_dir: str | Path) -> None:
    """Remove results, report, records and pictures of an earlier run."""
    with explained(log_dir):
        for path in (Path(log_dir) / name for name in TRACES):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def move_traces(log_dir: str | Path) -> Path | None:
    """Move results, report, records and pictures of an earlier run into a new folder; None if there are none."""
    if not (found := [path for name in TRACES if (path := Path(log_dir) / name).exists()]):
        return None
    earlier = unused(Path(log_dir) / EARLIER)
    with explained(earlier):
        earlier.mkdir()
        for path in found:
            shutil.move(path, earlier / path.name)
    return earlier


def set_apart(C: Settings, iteration: int) -> Path | None:
    """Move the files of a run after `iteration`, from which it continues, into a new folder `abandoned-ITERATION`.

    TensorBoard's records stay: the writer of the new records hides them.

    Returns:
        the folder, or None if there was nothing to move.
    """
    log, snapshots = Path(C.log_dir), Path(C.snapshot_dir)
    later = [path for path in list_snapshots(snapshots) if read_progress(path)[1] > iteration]
    apart = unused(log / f"{ABANDONED}-{iteration}")
    moves = {path: apart / "snapshot" / path.name for path in later}
    moves |= {path: apart / STRIPS / path.name for path in strips_from(log / STRIPS, iteration)}
    moves |= {
        path: apart / PREDICTIONS / path.name
        for path in (log / PREDICTIONS / save.stem for save in later)
        if path.is_dir()
    }
    if later and (log / REPORT).is_file():
        moves[log / REPORT] = apart / REPORT
    with explained(apart):
        for source, target in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
        for name in LINES:
            move_lines(log / name, apart / name, iteration)
        move_results(log / RESULTS, apart / RESULTS, snapshots, iteration / C.niters_per_epoch)
    return apart if apart.is_dir() else None


def unused(path: Path) -> Path:
    """`path`, or the first of `path`-2, `path`-3 and so on that does not exist."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def strips_from(folder: Path, iteration: int) -> list[Path]:
    """The strips of pseudo labels after `iteration`."""
    numbers = {path: re.fullmatch(r"iteration-(\d+)\.png", path.name) for path in folder.glob("*.png")}
    return [path for path, match in numbers.items() if match and int(match[1]) > iteration]


def move_lines(source: Path, target: Path, iteration: int) -> None:
    """Move the records from `iteration` on to another file."""
    if not source.is_file():
        return
    lines = source.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    later = [line for line in lines if number_of(line) >= iteration]
    if later:
        write_atomically(target, "".join(later).encode())
        write_atomically(source, "".join(line for line in lines if number_of(line) < iteration).encode())


def number_of(line: str) -> int:
    """The iteration of a record; -1 for a broken line."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, TypeError, KeyError):
        return -1


def move_results(source: Path, target: Path, snapshots: Path, epochs: float) -> None:
    """Move the scores of this folder's snapshots after `epochs` epochs to another file."""
    try:
        entries = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return

    def is_later(entry: object) -> bool:
        if not (isinstance(entry, dict) and isinstance(entry.get("epoch"), int)):
            return False
        return Path(str(entry.get("snapshot"))).parent == snapshots.resolve() and entry["epoch"] + 1 > epochs

    if isinstance(entries, list) and any(map(is_later, entries)):
        write_atomically(target, json.dumps([entry for entry in entries if is_later(entry)], indent=1).encode())
        write_atomically(source, json.dumps([entry for entry in entries if not is_later(entry)], indent=1).encode())
