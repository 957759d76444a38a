"""Results of evaluations: on the terminal, in the log and in `results.json`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from furnace.datasets.catalog import Classes
from furnace.datasets.splits import Sample
from furnace.engine.identity import samples_digest, snapshot_digest
from furnace.engine.record import RESULTS
from furnace.engine.snapshots import Snapshot
from furnace.seg_opr.metrics import MetricList
from furnace.utils.errors import UserError
from furnace.utils.files import write_atomically
from furnace.utils.locks import file_locked
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table
from furnace.utils.wording import percent

# Keys on which the values of an entry depend, besides its snapshot.
CONDITIONS = ("branch", "eval_source", "images_content", "scales", "flip", "crop", "stride_rate", "amp")


@dataclass(frozen=True)
class Result:
    """Scores of one snapshot, on the host.

    Attributes:
        values: of all metrics, by name.
        names: of the N images.
        per_image: (N,) float64, the value that ranks snapshots, for each single image.
        shows: (N, K) bool, the classes in the label of each image.
        labels: predicted label maps (H, W) uint8, compressed by zlib, by index of the image, if they are kept.
    """

    snapshot: str
    epoch: int
    branch: str
    seconds: float
    values: dict[str, Tensor]
    names: list[str]
    per_image: Tensor
    shows: Tensor
    labels: dict[int, bytes]


def results_table(entry: dict, metrics: MetricList) -> Table:
    """Table of the values of every class, with the main values below. `entry` as in `results.json`."""
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


def epochs_table(entries: Sequence[dict], metrics: MetricList) -> Table:
    """Table of the numbers of several snapshots, one row each. `entries` as in `results.json`."""
    table = Table(title=f"{len(entries)} snapshots, branch {entries[0]['branch']}, {entries[0]['images']} images")
    table.add_column("snapshot")
    for title in metrics.numbers.values():
        table.add_column(title, justify="right")
    for entry in entries:
        table.add_row(Path(entry["snapshot"]).name, *(percent(entry[key]) for key in metrics.numbers))
    return table


def summary(entry: dict, metrics: MetricList) -> str:
    """One line for the text log. `entry` as in `results.json`."""
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
    """Add entries to `results.json`; remove those of the same evaluations and of files that have changed since.

    Returns:
        all entries; the new ones are the given objects.
    """
    path = Path(C.log_dir) / RESULTS
    with file_locked(path):
        while True:
            before = stamp(path)
            entries = {evaluation_of(entry): entry for entry in [*filter(stands, read_results(path)), *new]}
            ordered = sorted(entries.values(), key=lambda entry: (entry["epoch"], entry["snapshot"], entry["branch"]))
            if stamp(path) == before:  # without a lock, another process may have written meanwhile
                break
        write_atomically(path, json.dumps(ordered, indent=1).encode())
    return ordered


def stamp(path: str | Path) -> list[int] | None:
    """Size and modification time (ns) of a file, to detect changes quickly; None if it is missing."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def stands(entry: dict) -> bool:
    """True if an entry's scores are valid for its snapshot file as it is now, or if the file no longer exists.

    Entries of older versions only have the time of their evaluation.
    """
    now = stamp(entry["snapshot"])
    if now is None or now == entry.get("stamp"):
        return True
    if "sha256" in entry:
        return snapshot_digest(entry["snapshot"]) == entry["sha256"]
    try:
        return datetime.fromisoformat(entry["finished"]).timestamp() >= now[1] // 10**9
    except (KeyError, TypeError, ValueError):
        return False


def require_unchanged(path: Path, unchanged: bool) -> None:
    """Raise UserError if a snapshot was replaced while it was in use."""
    if not unchanged:
        raise UserError(f"{path}: was replaced during the evaluation, as by a run that is training; evaluate it again")


def evaluation_of(entry: dict) -> tuple:
    """Key of an evaluation: its snapshot and `CONDITIONS`; None for values that older files lack."""
    values = (entry.get(name) for name in CONDITIONS)
    hashable = (tuple(value) if isinstance(value, list | tuple) else value for value in values)
    return str(Path(entry["snapshot"]).resolve()), *hashable


def compare_fairly(one: dict, other: dict) -> bool:
    """True for scores of one run that differ in the snapshot alone: conditions and classes are the same."""
    same = evaluation_of(one)[1:] == evaluation_of(other)[1:]
    return same and all(one.get(name) == other.get(name) for name in ("classes", "run"))


def best_entry(entries: Iterable[dict], entry: dict, metrics: MetricList) -> dict:
    """The best of `entry` and the entries that compare fairly with it and have an existing snapshot."""
    needed = {"per_image", "finished", *metrics.numbers, *metrics.per_class, *metrics.matrices}

    def fits(other: dict) -> bool:
        return compare_fairly(other, entry) and needed <= other.keys() and Path(other["snapshot"]).is_file()

    return best_of([entry, *filter(fits, entries)], metrics)


def best_of(entries: Iterable[dict], metrics: MetricList) -> dict:
    """The best entry; of equal scores that of the latest epoch, and of one epoch the first."""
    return max(entries, key=lambda entry: (metrics.rank_of(entry), entry["epoch"]))


def identify(path: Path, snapshot: Snapshot, samples: Sequence[Sample], amp: str) -> dict:
    """Origin of an entry: the snapshot's content and run, the evaluated images, the precision."""
    return {
        "sha256": snapshot_digest(path),
        "stamp": stamp(path),
        "run": snapshot.identity.get("run"),
        "images_content": samples_digest(samples),
        "amp": amp,
    }


def result_entry(C: Settings, result: Result, classes: Classes, origin: dict) -> dict:
    """An entry of `results.json`: its origin (`identify`), conditions, and the values of all metrics."""
    return {
        **origin,
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
    """The entries of a `results.json`; none if the file is missing or damaged."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return []
    if not isinstance(entries, list):
        return []
    needed = {"snapshot": str, "branch": str, "epoch": int}
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in needed.items())
    ]


def plain(values: Tensor) -> list | float | None:
    """A tensor as a JSON value: nested lists or a number; None for NaN."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [without_nan(item) for item in value]
        return None if math.isnan(value) else value

    return without_nan(values.tolist())
