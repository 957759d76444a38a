"""Choose snapshots by the text of `-e`."""

from pathlib import Path

from furnace.engine.record import RESULTS
from furnace.engine.snapshot_folder import find_snapshots
from furnace.inference.results import best_entry, read_results, stands
from furnace.seg_opr.metrics import MetricList
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings

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

    The last evaluation counts, with all that were made under the same conditions. `branch`: of that branch alone.

    Raises:
        UserError: no existing snapshot has such a score.
    """
    metrics = MetricList(C.eval_metrics)
    folder, path = Path(C.snapshot_dir).resolve(), Path(C.log_dir) / RESULTS
    scored = [
        entry
        for entry in read_results(path)
        if Path(entry["snapshot"]).parent == folder
        and metrics.main in entry
        and branch in (None, entry["branch"])
        and Path(entry["snapshot"]).is_file()
        and stands(entry)
    ]
    if not scored:
        which = f" of branch {branch}" if branch else ""
        raise UserError(
            f"-e {BEST}: {path} has no {metrics.mains[metrics.main]}{which} of the snapshots in {folder}; evaluate "
            "them first, as with python eval.py -e 0-"
        )
    latest = max(scored, key=lambda entry: str(entry.get("finished")))
    return Path(best_entry(scored, latest, metrics)["snapshot"])
