"""Write the report: one self-contained HTML page with an experiment's results, next to `results.json`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from furnace.datasets.catalog import Classes
from furnace.engine.record import RECORD, REPORT, TRAINING_METRICS, TRUTH, read_metrics, read_record
from furnace.engine.snapshots import Snapshot
from furnace.inference.examples import Example, example_row, frequent_errors
from furnace.inference.page import render
from furnace.inference.plots import curves_plot, epochs_plot
from furnace.inference.results import compare_fairly
from furnace.methods.settings import all_settings
from furnace.seg_opr.metrics import MetricList
from furnace.utils.files import write_atomically
from furnace.utils.settings import PLACES, Settings
from furnace.utils.wording import LISTS

TEMPLATE = "report.html.j2"
COSTS = ("step_seconds", "data_seconds")
JUDGED = ("intersection", "union", "branch_1", "branch_2")
# Conditions of evaluations that the page shows if they differ between entries, and their titles.
VARIED = {
    "eval_source": "list",
    "scales": "scales",
    "flip": "mirrored",
    "crop": "window",
    "stride_rate": "stride",
    "amp": "precision",
}
NOT_LOSSES = ("iteration", "lr", "overlap", "confidence", "memory_gib", *COSTS)


@dataclass(frozen=True)
class Training:
    """Training run of a snapshot: method, settings, record ({} if unknown), metrics over iterations, and `truth`, the
    quality of its pseudo labels against withheld labels."""

    method: str
    settings: dict
    record: dict
    metrics: Sequence[dict]
    truth: Sequence[dict]

    @classmethod
    def of(cls, C: Settings, own: Settings, snapshot: Snapshot, path: Path) -> "Training":
        """Training run of a snapshot with settings `own`; records of other runs are ignored."""
        record = read_record(path.parent / RECORD)
        if record.get("run") != snapshot.identity.get("run"):
            record = {}
        lines = [[], []]
        if record and path.resolve().parent == Path(C.snapshot_dir).resolve():
            lines = [read_metrics(Path(C.log_dir) / name, record.get("run")) for name in (TRAINING_METRICS, TRUTH)]
        return cls(own.method, snapshot.settings or own.model_dump(), record, *lines)


def write_report(
    C: Settings,
    training: Training,
    metrics: MetricList,
    entries: Sequence[dict],
    shown: dict,
    examples: Sequence[Example],
    classes: Classes,
    origin: dict[str, str],
) -> Path:
    """Write the page.

    Args:
        C: settings of the evaluation.
        training: run of the shown snapshot.
        metrics: to show.
        entries: all entries of `results.json`; older ones may lack values.
        shown: the entry to show in detail, one of `entries`.
        examples: images of this entry, in the order of display.
        classes: names and colours.
        origin: device and versions with which the page was made, by name.
    """
    rows = [example_row(example, classes) for example in examples]
    page = render(
        TEMPLATE,
        svg=metric_plots(metrics, entries) | training_plots(training.metrics, training.truth),
        title=f"{C.this_dir}: {training.method} on {C.dataset_name}",
        metrics=metrics,
        entries=ranked(entries, shown, metrics.main),
        rivals=sum(compare_fairly(entry, shown) for entry in entries),
        names=snapshot_names(entries),
        varied=varied(entries),
        told=told,
        shown=shown,
        rows=class_rows(metrics, shown, classes),
        examples=rows,
        errors=frequent_errors(rows, classes.names),
        legend=[(name, css(entry)) for name, entry in zip(classes.names, classes.palette, strict=True)],
        record=training.record,
        words=LISTS,
        settings=training.settings,
        changed=changed_settings(training.settings),
        origin=origin,
    )
    path = Path(C.log_dir) / REPORT
    write_atomically(path, page)
    return path


def snapshot_names(entries: Sequence[dict]) -> dict[str, str]:
    """What the page calls each snapshot: its file's name, or its path if another folder has a file of that name."""
    paths = {entry["snapshot"] for entry in entries}
    counts = Counter(Path(path).name for path in paths)
    return {path: path if counts[Path(path).name] > 1 else Path(path).name for path in paths}


def ranked(entries: Sequence[dict], shown: dict, value: str) -> list[dict]:
    """The entries: `shown` first, the others from the highest value."""
    return sorted(entries, key=lambda entry: (entry is not shown, -(entry.get(value) or 0), -entry["epoch"]))


def varied(entries: Sequence[dict]) -> dict[str, str]:
    """The keys of `VARIED` whose values differ between entries, and their titles."""
    return {key: title for key, title in VARIED.items() if len({str(entry.get(key)) for entry in entries}) > 1}


def told(entry: dict, key: str) -> str:
    """A value of `VARIED` as readable text; "-" if an older file lacks it."""
    value = entry.get(key)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(f"{number:g}" for number in value)
    return Path(value).name if isinstance(value, str) else f"{value:g}"


def series(entries: Sequence[dict]) -> list[str]:
    """Name of each entry's line in a plot: its branch, and the conditions that differ between entries."""
    titles = varied(entries)
    return [
        ", ".join([f"branch {entry['branch']}", *(f"{title} {told(entry, key)}" for key, title in titles.items())])
        for entry in entries
    ]


def metric_plots(metrics: MetricList, entries: Sequence[dict]) -> dict[str, str]:
    """SVG plots of results by name."""
    main, title = metrics.main, metrics.numbers[metrics.main]
    return {"epochs": epochs_plot(entries, series(entries), main, title)}


def training_plots(training: Sequence[dict], truth: Sequence[dict]) -> dict[str, str]:
    """SVG plots of the training by name, from records of its metrics and of its pseudo labels; {} without records."""
    plots = {}
    if training:
        names = list(dict.fromkeys(name for record in training for name in record))
        plots["losses"] = curves_plot(training, [name for name in names if name not in NOT_LOSSES], "loss")
        plots["costs"] = curves_plot(training, COSTS, "seconds")
        if "overlap" in names:
            plots["overlap"] = curves_plot(training, ["overlap"], "share of pixels")
    for measure in ("miou", "share") if truth else ():
        plots[f"truth_{measure}"] = curves_plot(truth, [f"{name}_{measure}" for name in JUDGED], measure)
    return plots


def class_rows(metrics: MetricList, entry: dict, classes: Classes) -> list[dict]:
    """Name, colour and values of every class, and its row of each matrix by name: (count, share) pairs."""
    columns = [entry[key] for key in metrics.per_class]
    rows = [
        {"name": name, "colour": css(rgb), "values": values, "matrices": {}}
        for name, rgb, *values in zip(entry["classes"], classes.palette, *columns, strict=True)
    ]
    for key in metrics.matrices:
        for row, counts in zip(rows, entry[key], strict=True):
            row["matrices"][key] = [(count, count / max(sum(counts), 1)) for count in counts]
    return rows


def changed_settings(settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Value and default (None if there is none) of the settings that differ from their defaults, except `PLACES`."""
    fields = all_settings().model_fields
    defaults = {name: field.get_default() for name, field in fields.items() if not field.is_required()}
    return {
        name: (value, defaults.get(name))
        for name, value in settings.items()
        if name not in PLACES and (name not in defaults or as_json(value) != as_json(defaults[name]))
    }


def as_json(value: Any) -> Any:
    """A setting's value as stored in snapshots: tuples become lists."""
    return json.loads(json.dumps(value))


def css(entry: tuple[int, int, int]) -> str:
    """Colour for CSS: "#ff0000" for (255, 0, 0)."""
    return "#{:02x}{:02x}{:02x}".format(*entry)
