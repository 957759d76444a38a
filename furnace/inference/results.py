"""Results of evaluations: on the terminal, in the log and in `results.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from furnace.datasets.catalog import Classes
from furnace.engine.record import RESULTS
from furnace.seg_opr.metrics import MetricList
from furnace.utils.files import write_atomically
from furnace.utils.settings import Settings
from furnace.utils.wording import percent

# What the values of an entry depend on, beside its snapshot.
CONDITIONS = ("branch", "eval_source", "scales", "flip", "crop", "stride_rate")


@dataclass(frozen=True)
class Result:
    """One snapshot's scores, on the host: `values` of all metrics by name; `per_image` (N,) float64, the value that
    ranks snapshots for each image alone, in the order of `names`."""

    snapshot: str
    epoch: int
    branch: str
    seconds: float
    values: dict[str, Tensor]
    names: list[str]
    per_image: Tensor


def results_table(entry: dict, metrics: MetricList) -> Table:
    """The values of every class, and below them the main ones. `entry` as in `results.json`."""
    table = Table(
        title=f"{Path(entry['snapshot']).name}, branch {entry['branch']}, {entry['images']} images",
        caption=numbers_text(entry, metrics, metrics.mains),
    )
    table.add_column("class")
    for title in metrics.per_class.values():
        table.add_column(title, justify="right")
    for name, *values in zip(entry["classes"], *(entry[key] for key in metrics.per_class), strict=True):
        table.add_row(name, *map(percent, values))
    return table


def summary(entry: dict, metrics: MetricList) -> str:
    """The line of the text log. `entry` as in `results.json`."""
    return (
        f"{Path(entry['snapshot']).name} branch {entry['branch']}: {numbers_text(entry, metrics, metrics.numbers)}; "
        f"{entry['images']} images in {entry['seconds']:.1f} s"
    )


def numbers_text(entry: dict, metrics: MetricList, titles: Mapping[str, str]) -> str:
    """Numbers by title, in percent: "mIoU 73.74 over 19 of 21 classes, pixel accuracy 93.10"."""
    return ", ".join(
        f"{title} {percent(entry[key])} {metrics.coverage(key, entry)}".rstrip() for key, title in titles.items()
    )


def save_results(C: Settings, new: list[dict]) -> list[dict]:
    """Add entries to `results.json`, in place of those of the same evaluations. Returns all entries, those given
    as they are."""
    path = Path(C.log_dir) / RESULTS
    entries = {evaluation_of(entry): entry for entry in [*read_results(path), *new]}
    ordered = sorted(entries.values(), key=lambda entry: (entry["epoch"], entry["snapshot"], entry["branch"]))
    write_atomically(path, json.dumps(ordered, indent=1).encode())
    return ordered


def evaluation_of(entry: dict) -> tuple:
    """Key of an evaluation: its snapshot and `CONDITIONS`; None for values that older files lack."""
    values = (entry.get(name) for name in CONDITIONS)
    hashable = (tuple(value) if isinstance(value, list | tuple) else value for value in values)
    return str(Path(entry["snapshot"]).resolve()), *hashable


def result_entry(C: Settings, result: Result, classes: Classes) -> dict:
    """A result as `results.json` has it: its conditions, and the values of all metrics."""
    return {
        "snapshot": str(Path(result.snapshot).resolve()),
        "epoch": result.epoch,
        "images": len(result.names),
        "branch": result.branch,
        "eval_source": C.eval_source,
        "scales": C.eval_scale_array,
        "flip": C.eval_flip,
        "crop": C.eval_crop_size,
        "stride_rate": C.eval_stride_rate,
        "seconds": round(result.seconds, 2),
        "finished": datetime.now().isoformat(timespec="seconds"),
        "classes": list(classes.names),
        **{key: plain(value) for key, value in result.values.items()},
        "per_image": dict(zip(result.names, plain(result.per_image), strict=True)),
    }


def read_results(path: str | Path) -> list[dict]:
    """The entries of a `results.json`; none if the file is missing or can't be read."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and {"snapshot", "branch", "epoch"} <= entry.keys()]


def plain(values: Tensor) -> list | float | None:
    """A tensor as JSON takes it: lists, or a number; None for NaN."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [without_nan(item) for item in value]
        return None if math.isnan(value) else value

    return without_nan(values.tolist())
