"""What an evaluation found: on the terminal, in the log and in `results.json`."""

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from furnace.datasets.catalog import Classes
from furnace.engine.record import RESULTS
from furnace.seg_opr.confusion import Scores
from furnace.utils.files import write_atomically
from furnace.utils.settings import Settings
from furnace.utils.wording import percent

# What an entry's scores follow from, beside its snapshot.
CONDITIONS = ("branch", "eval_source", "scales", "flip", "crop", "stride_rate")


@dataclass(frozen=True)
class Result:
    """One snapshot's scores: `confusion` (K, K) int64 with targets in rows; `per_image` (N,) float64, each image's
    mIoU over the classes that occur in it or in its prediction, by `names`."""

    snapshot: str
    epoch: int
    branch: str
    seconds: float
    confusion: Tensor
    scores: Scores
    names: list[str]
    per_image: Tensor

    @property
    def images(self) -> int:
        return len(self.names)


def results_table(result: Result, classes: Classes) -> Table:
    """IoU and accuracy of every class."""
    found = result.scores
    table = Table(title=f"{Path(result.snapshot).name}, branch {result.branch}, {result.images} images")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    for name, iou, accuracy in zip(classes.names, found.iou.tolist(), found.accuracy.tolist(), strict=True):
        table.add_row(name, percent(iou), percent(accuracy))
    return table


def summary(result: Result) -> str:
    """The line of the text log."""
    found = result.scores
    return (
        f"{Path(result.snapshot).name} branch {result.branch}: mIoU {percent(found.miou)}, without class 0 "
        f"{percent(found.miou_no_background)}, pixel accuracy {percent(found.pixel_accuracy)}, mean class accuracy "
        f"{percent(found.mean_accuracy)}; {result.images} images in {result.seconds:.1f} s"
    )


def save_results(C: Settings, results: list[Result], classes: Classes) -> list[dict]:
    """Add the results to `results.json`, in place of those of the same evaluations. Returns all entries."""
    path = Path(C.log_dir) / RESULTS
    entries = {evaluation_of(entry): entry for entry in read_results(path)}
    for result in results:
        entry = result_entry(C, result, classes)
        entries[evaluation_of(entry)] = entry
    ordered = sorted(entries.values(), key=lambda entry: (entry["epoch"], entry["snapshot"], entry["branch"]))
    write_atomically(path, json.dumps(ordered, indent=1).encode())
    return ordered


def evaluation_of(entry: dict) -> tuple:
    """What tells one evaluation from another: snapshot and `CONDITIONS`, None where an older file lacks one."""
    values = (entry.get(name) for name in CONDITIONS)
    hashable = (tuple(value) if isinstance(value, list) else value for value in values)
    return str(Path(entry["snapshot"]).resolve()), *hashable


def find_entry(entries: list[dict], C: Settings, result: Result) -> dict:
    """The entry of a result that has been saved."""
    wanted = evaluation_of({"snapshot": result.snapshot, **conditions(C, result)})
    return next(entry for entry in entries if evaluation_of(entry) == wanted)


def conditions(C: Settings, result: Result) -> dict[str, Any]:
    """The `CONDITIONS` of a result."""
    return {
        "branch": result.branch,
        "eval_source": C.eval_source,
        "scales": C.eval_scale_array,
        "flip": C.eval_flip,
        "crop": C.eval_crop_size,
        "stride_rate": C.eval_stride_rate,
    }


def result_entry(C: Settings, result: Result, classes: Classes) -> dict:
    """What `results.json` says of a result."""
    found = {key: plain(value) for key, value in asdict(result.scores).items()}
    return {
        "snapshot": str(Path(result.snapshot).resolve()),
        "epoch": result.epoch,
        "images": result.images,
        **conditions(C, result),
        "seconds": round(result.seconds, 2),
        "finished": datetime.now().isoformat(timespec="seconds"),
        "classes": list(classes.names),
        **found,
        "confusion": result.confusion.tolist(),
        "per_image": dict(zip(result.names, plain(result.per_image), strict=True)),
    }


def read_results(path: str | Path) -> list[dict]:
    """The entries of a `results.json`, none where there is no such file or it can't be read."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and {"snapshot", "branch", "epoch"} <= entry.keys()]


def plain(value: Tensor | float) -> list | float | None:
    """For JSON: tensors as lists, NaN as null."""
    if isinstance(value, Tensor):
        return [plain(item) for item in value.tolist()]
    return None if math.isnan(value) else value
