"""Choose the snapshot that a run begins from, in the first process, and check it before anything changes."""

import time
from pathlib import Path
from typing import Any

import torch

from furnace.engine.continuing import PENDING, Found
from furnace.engine.distributed import from_first, launched, restarts, whole_batch, world_size
from furnace.engine.identity import changed_data
from furnace.engine.record import RECORD, read_record
from furnace.engine.snapshot_folder import list_snapshots, newest_sound
from furnace.engine.snapshots import SHOWN, Snapshot, check_finite, load_snapshot, read_progress
from furnace.utils.errors import UserError
from furnace.utils.files import explained
from furnace.utils.settings import Settings
from furnace.utils.wording import counted

AUTO = "auto"
LATE_SECONDS, LATE_TRIES = 90, 10  # network disks may show a new file a minute later
COUNTS = ("batch_size", "niters_per_epoch")  # what an iteration and an epoch are


def choose_start(C: Settings, resume: str | None, overwrite: bool) -> tuple[Found | None, bool, list[str]]:
    """The snapshot to continue from, if any; whether it is in the run's own folder; what there is to say about it.

    Args:
        C: says where snapshots lie.
        resume, overwrite: as for `Trainer`.

    Raises:
        UserError: there is no such snapshot, it is of another run, or snapshots of another run would be overwritten.
    """
    folder = C.snapshot_dir
    if not (resume or overwrite or restarts()):
        check_unused(folder)
    found, notes = find_resume(resume, folder)
    own = found is not None and Path(found[1]).resolve().parent == Path(folder).resolve()
    if own:
        check_run(*found, folder)
        check_counts(*found, C)
    elif found and not overwrite:
        check_unused(folder)
    return found, own, notes


def choose_together(
    C: Settings, resume: str | None, overwrite: bool, device: torch.device
) -> tuple[Found | None, bool, list[str]]:
    """`choose_start` of the first process, for all; wait for a folder that shows it the latest save late.

    The other machines need not see the first one's folder. But after a restart another machine may be the first.

    Raises:
        UserError: as `choose_start`; or another process sees a later save than the first one.
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
            f"{C.snapshot_dir}: process {seen.index(max(seen))} sees a save of iteration {max(seen)} there, the first "
            "process none so late; let all machines share this folder, or let the first one be the one that has it"
        )
    return found, own, notes


def latest_iteration(folder: str) -> int:
    """Iteration of the latest save in a folder, -1 if there is none that can be read."""
    saves = list_snapshots(folder)
    return read_progress(saves[0])[1] if saves else -1


def check_unused(folder: str) -> None:
    """Raise UserError if a folder holds a run's snapshots."""
    if present := list_snapshots(folder):
        raise UserError(
            f"{folder}: holds {counted(present, 'snapshot')} of a run, the latest {present[0].name}; continue it "
            "(-c auto), replace it (--overwrite), or choose another folder (-o log_dir=...)"
        )


def find_resume(resume: str | None, folder: str) -> tuple[Found | None, list[str]]:
    """The snapshot to continue from, None for a run from its start, and what there is to say about the choice.

    Args:
        resume: a path, "auto" or None. After a restart by torchrun it is "auto", unless the processes ended before
            they had made the folder theirs.
        folder: where "auto" looks.

    Raises:
        UserError: there is no such file, or no sound one.
    """
    pending = Path(folder) / PENDING
    if restarts() and not pending.exists():
        resume = AUTO
    elif resume != AUTO and (list_snapshots(folder) or (resume and launched())):
        with explained(pending):
            pending.parent.mkdir(parents=True, exist_ok=True)
            pending.touch()
    if resume is None:
        return None, []
    if resume != AUTO:
        snapshot = load_snapshot(resume)
        check_finite(snapshot, resume)
        return (snapshot, resume), [snapshot.note] if snapshot.note else []
    newest = newest_sound(folder)
    if newest is None:
        return None, [f"-c auto: nothing to continue in {folder}; the run begins"]
    path, snapshot, faults = newest
    notes = [f"-c auto: {fault}" for fault in faults]
    return (snapshot, str(path)), [*notes, f"-c auto: continues {path}"]


def check_run(snapshot: Snapshot, path: str, folder: str | Path) -> None:
    """Raise UserError if a snapshot that lies in a run's folder is another run's, by the record in that folder."""
    own, known = snapshot.identity.get("run"), read_record(Path(folder) / RECORD).get("run")
    if own and known and own != known:
        raise UserError(
            f"{path}: is of another run than {Path(folder) / RECORD}; move it away, or continue it in a folder of its "
            f"own (-c {path} -o log_dir=...)"
        )


def check_counts(snapshot: Snapshot, path: str, C: Settings) -> None:
    """Raise UserError if iterations or epochs of a run's own snapshot are not those of the settings.

    Names of snapshots, records, scores and the order of images all go by them: half a run of each would tell nothing.
    """
    own = {key: getattr(C, key) for key in COUNTS}
    changed = {key: str(snapshot.settings.get(key, own[key]))[:SHOWN] for key in COUNTS}
    changed = {key: value for key, value in changed.items() if value != str(own[key])}
    if changed:
        what = " and ".join(f"C.{key} = {value} (now {own[key]})" for key, value in changed.items())
        same = " ".join(f"-o {key}={value}" for key, value in changed.items())
        raise UserError(
            f"{path}: was made with {what}, in which its run counts; continue with the same ({same}), or, counted in "
            f"epochs, in a folder of its own (-c {path} -o log_dir=...)"
        )


def check_data(snapshot: Snapshot, path: str, data: dict[str, Any], resume: str | None, notes: list[str]) -> None:
    """Compare the lists that a snapshot learned from with those of now; other files under the same names are a note.

    Raises:
        UserError: the lists differ, and the snapshot was not named on the command line, which makes that a note, too.
    """
    before = snapshot.identity.get("data", {})
    if changed := changed_data(before, data, "names"):
        text = f"{path}: learned from other lists: {'; '.join(changed)}"
        if resume != path:
            raise UserError(f"{text}; give it the same lists, or go on with these deliberately: -c {path}")
        notes.append(text)
    elif changed := changed_data(before, data, "content"):
        notes.append(f"{path}: files have changed since: {'; '.join(changed)}")
