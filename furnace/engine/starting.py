"""Choose the snapshot from which a run starts, check it before any file changes, and identify the run."""

import time
from pathlib import Path
from typing import Any

import torch

from furnace.datasets.dataset import TrainSet
from furnace.engine.distributed import from_first, has_begun, restarts, whole_batch, world_size
from furnace.engine.identity import changed_data, data_identity, new_run
from furnace.engine.record import RECORD, read_record, versions
from furnace.engine.snapshot_folder import list_snapshots, newest_sound
from furnace.engine.snapshots import SHOWN, Snapshot, check_finite, load_snapshot, read_progress
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import counted

AUTO = "auto"
LATE_SECONDS, LATE_TRIES = 90, 10  # network disks may show a new file a minute later
COUNTS = ("batch_size", "niters_per_epoch")  # they define an iteration and an epoch


def choose_start(C: Settings, resume: str | None, overwrite: bool) -> tuple[Snapshot | None, bool, list[str]]:
    """The snapshot to continue from or None, True if it is in the run's own folder, and notes about it.

    Args:
        C: settings with the folder of snapshots.
        resume, overwrite: as for `Trainer`. After a restart by torchrun the run continues from its own last save.

    Raises:
        UserError: the snapshot is missing or belongs to another run, or snapshots of a run would be overwritten.
    """
    folder = C.snapshot_dir
    if has_begun():
        resume = AUTO
    elif not (resume or overwrite):
        check_unused(folder)
    found, notes = find_resume(resume, folder)
    own = found is not None and Path(found.path).resolve().parent == Path(folder).resolve()
    if own:
        check_run(found, folder)
        check_counts(found, C)
    elif found and not overwrite:
        check_unused(folder)
    return found, own, notes


def choose_together(
    C: Settings, resume: str | None, overwrite: bool, device: torch.device
) -> tuple[Snapshot | None, bool, list[str]]:
    """`choose_start` in the first process, for all processes; wait if its folder shows the latest save late.

    The other machines do not need the first one's folder. But after a restart another machine may be the first.

    Raises:
        UserError: as in `choose_start`, or another process sees a later save than the first one.
    """
    for attempt in range(LATE_TRIES):
        if attempt:
            time.sleep(LATE_SECONDS / LATE_TRIES)
        found, own, notes = from_first(lambda: choose_start(C, resume, overwrite))
        if world_size() == 1 or not (resume == AUTO or restarts()):
            break
        chosen = from_first(lambda: latest_iteration(C.snapshot_dir))
        seen = whole_batch().gather(torch.tensor([latest_iteration(C.snapshot_dir)], device=device)).tolist()
        if max(seen) <= chosen:
            break
    else:
        raise UserError(
            f"{C.snapshot_dir}: process {seen.index(max(seen))} sees a save of iteration {max(seen)} there, but the "
            "first process does not; let all machines share this folder, or make the machine that has it the first one"
        )
    return found, own, notes


def latest_iteration(folder: str) -> int:
    """Iteration of the latest save in a folder; -1 if there is none, or if it can't be read."""
    saves = list_snapshots(folder)
    return read_progress(saves[0])[1] if saves else -1


def check_unused(folder: str) -> None:
    """Raise UserError if a folder contains snapshots of a run."""
    if present := list_snapshots(folder):
        raise UserError(
            f"{folder}: holds {counted(len(present), 'snapshot')} of a run, the latest {present[0].name}; continue it "
            "(-c auto), replace it (--overwrite), or choose another folder (-o log_dir=...)"
        )


def find_resume(resume: str | None, folder: str) -> tuple[Snapshot | None, list[str]]:
    """The snapshot to continue from, None for a run from its start, and notes about the choice.

    Args:
        resume: a path, "auto" or None.
        folder: the folder in which "auto" searches.

    Raises:
        UserError: the file is missing or damaged, or "auto" finds only damaged ones.
    """
    if resume is None:
        return None, []
    if resume != AUTO:
        snapshot = load_snapshot(resume)
        check_finite(snapshot)
        return snapshot, [snapshot.note] if snapshot.note else []
    snapshot, faults = newest_sound(folder)
    if snapshot is None:
        return None, [f"-c auto: nothing to continue in {folder}; the run starts from the beginning"]
    return snapshot, [*(f"-c auto: {fault}" for fault in faults), f"-c auto: continues from {snapshot.path}"]


def identify(C: Settings, dataset: TrainSet, found: Snapshot | None, own: bool) -> dict[str, Any]:
    """Name, training lists and versions of a run; a run that continues in its own folder keeps its name."""
    before = found.identity if found else {}
    known = before.get("run") or read_record(Path(C.snapshot_dir) / RECORD).get("run") if own else None
    identity = {"run": from_first(lambda: known or new_run()), "data": data_identity(C, dataset)}
    if found and not own:
        identity["continues"] = {"run": before.get("run"), "snapshot": str(Path(found.path).resolve())}
    return identity | {"versions": versions()}


def check_run(snapshot: Snapshot, folder: str | Path) -> None:
    """Raise UserError if a snapshot in a run's folder belongs to another run than the folder's record."""
    own, known = snapshot.identity.get("run"), read_record(Path(folder) / RECORD).get("run")
    if own and known and own != known:
        raise UserError(
            f"{snapshot.path}: belongs to another run than {Path(folder) / RECORD}; move it away, or continue it in "
            f"another folder (-c {snapshot.path} -o log_dir=...)"
        )


def check_counts(snapshot: Snapshot, C: Settings) -> None:
    """Raise UserError if batch size or epoch length of a run's own snapshot differ from the settings.

    Snapshot names, records, scores and the order of images depend on them: a run with two definitions means nothing.
    """
    own = {key: getattr(C, key) for key in COUNTS}
    changed = {key: str(snapshot.settings.get(key, own[key]))[:SHOWN] for key in COUNTS}
    changed = {key: value for key, value in changed.items() if value != str(own[key])}
    if changed:
        what = " and ".join(f"C.{key} = {value} (now {own[key]})" for key, value in changed.items())
        same = " ".join(f"-o {key}={value}" for key, value in changed.items())
        raise UserError(
            f"{snapshot.path}: was made with {what}; continue with the same values ({same}), or, converted to the new "
            f"epochs, in another folder (-c {snapshot.path} -o log_dir=...)"
        )


def check_data(snapshot: Snapshot, data: dict[str, Any], resume: str | None) -> list[str]:
    """Compare the training lists of a snapshot with the current ones; a note if only files have changed.

    Raises:
        UserError: the lists differ. If the snapshot was named on the command line, this is a note instead.
    """
    before, path = snapshot.identity.get("data", {}), snapshot.path
    if changed := changed_data(before, data, "names"):
        text = f"{path}: was trained on other lists: {'; '.join(changed)}"
        if resume != path:
            raise UserError(f"{text}; use the same lists, or accept the new ones with -c {path}")
        return [text]
    changed = changed_data(before, data, "content")
    return [f"{path}: files have changed since: {'; '.join(changed)}"] if changed else []
