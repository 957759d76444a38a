"""Choose snapshots by the text of `-e`."""

from pathlib import Path

from furnace.engine.record import RESULTS
from furnace.engine.snapshot_folder import find_snapshots
from furnace.inference.results import best_of, evaluation_of, read_results, stands
from furnace.seg_opr.metrics import MetricList
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.terminal import note
from furnace.utils.wording import counted, percent

BEST = "best"


def choose_snapshots(C: Settings, which: str, branch: str | None = None) -> list[Path]:
    """The snapshots that `which` names: as in `find_snapshots`, or "best" (see `best_snapshot`). Raises UserError."""
    if which.strip() == BEST:
        return [best_snapshot(C, branch)]
    return find_snapshots(which, C.snapshot_dir)


def choose_snapshot(C: Settings, which: str, what: str, branch: str | None = None) -> Path:
    """The snapshot that `which` names; raises UserError for several, too, as `what` takes only one."""
    found = choose_snapshots(C, which, branch)
    if len(found) > 1:
        raise UserError(f"-e {which}: names {len(found)} snapshots; {what} takes one, such as -e last or -e best")
    return found[0]


def best_snapshot(C: Settings, branch: str | None = None) -> Path:
    """The snapshot of `C.snapshot_dir` that the first metric of `C.eval_metrics` ranks highest in `results.json`.

    Only scores of `branch` count (None: of any). If there are scores under several conditions, those of most snapshots
    count, and of equally many the latest. A note says what was chosen.

    Raises:
        UserError: no existing snapshot has such a score.
    """
    metrics = MetricList(C.eval_metrics)
    folder, path = Path(C.snapshot_dir).resolve(), Path(C.log_dir) / RESULTS
    groups: dict[tuple, list[dict]] = {}
    for entry in read_results(path):
        snapshot = Path(entry["snapshot"])
        fits = snapshot.parent == folder and branch in (None, entry["branch"]) and metrics.main in entry
        if fits and snapshot.is_file() and stands(entry):
            groups.setdefault((entry.get("run"), *evaluation_of(entry)[1:]), []).append(entry)
    title = metrics.mains[metrics.main]
    if not groups:
        which, option = (f" of branch {branch}", f" --branch {branch}") if branch else ("", "")
        raise UserError(
            f"-e {BEST}: {path} has no {title}{which} of the snapshots in {folder}; evaluate them first, as with "
            f"python eval.py -e 0-{option}"
        )
    scored = max(groups.values(), key=lambda group: (len(group), max(str(entry.get("finished")) for entry in group)))
    best = best_of(scored, metrics)
    found = Path(best["snapshot"])
    score = f"{title} {percent(best[metrics.main])} of branch {best['branch']}"
    note(BEST, f"-e {BEST}: {found.name}, {score}, of {counted(len(scored), 'evaluated snapshot')}")
    return found
