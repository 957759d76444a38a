"""The report: one self-contained HTML page of an experiment's results, beside `results.json`."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from furnace.datasets.catalog import Classes
from furnace.engine.record import RECORD, REPORT, TRAINING_METRICS, TRUTH, read_metrics, read_record
from furnace.engine.snapshots import Snapshot
from furnace.inference.options import OPACITY
from furnace.inference.plots import bars_plot, curves_plot, epochs_plot, matrix_plot
from furnace.seg_opr.metrics import MetricList
from furnace.utils.files import write_atomically
from furnace.utils.settings import Settings
from furnace.utils.visualize import colour, overlay
from furnace.utils.wording import percent

TEMPLATE = "report.html.j2"
EXAMPLES = 4  # images of each kind, best and worst
EXAMPLE_HEIGHT = 240
JPEG_QUALITY = 85
COSTS = ("step_seconds", "data_seconds")
JUDGED = ("intersection", "union", "branch_1", "branch_2")
# Of the evaluations, what the page shows where it differs among them, and its title.
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
class Example:
    """An evaluated image (H, W, 3), its ground truth and prediction (H, W), uint8, and the value that ranks it."""

    name: str
    score: float
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class Training:
    """The run that an evaluated snapshot comes from: method, settings, record ({} if unknown), metrics over iterations,
    and quality of its pseudo labels."""

    method: str
    settings: dict
    record: dict
    metrics: Sequence[dict]
    truth: Sequence[dict]

    @classmethod
    def of(cls, C: Settings, own: Settings, snapshot: Snapshot, path: Path) -> "Training":
        """That of a snapshot, whose settings are `own`; records count only if they are of the same run."""
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
) -> Path:
    """Write the page.

    Args:
        C: settings of the evaluation.
        training: of the snapshot that is shown.
        metrics: to show.
        entries: of `results.json`, all of them; older ones may lack values.
        shown: the entry to show in detail, one of them.
        examples: images of that entry, best first.
        classes: names and colours.
    """
    page = (
        environment()
        .get_template(TEMPLATE)
        .render(
            title=f"{C.this_dir}: {training.method} on {C.dataset_name}",
            metrics=metrics,
            entries=entries,
            varied=varied(entries),
            shown=shown,
            rows=class_rows(metrics, shown, classes),
            plots={
                name: Markup(svg)
                for name, svg in {
                    **metric_plots(metrics, entries, shown),
                    **training_plots(training.metrics, training.truth),
                }.items()
            },
            examples=[example_row(example, classes) for example in examples],
            legend=[(name, css(entry)) for name, entry in zip(classes.names, classes.palette, strict=True)],
            record=training.record,
            settings=training.settings,
        )
    )
    path = Path(C.log_dir) / REPORT
    write_atomically(path, page.encode())
    return path


def environment() -> Environment:
    """Templates beside this file; what they show is escaped."""
    found = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    found.filters |= {"percent": percent, "filename": lambda path: Path(path).name, "told": told}
    return found


def varied(entries: Sequence[dict]) -> dict[str, str]:
    """The keys of `VARIED` whose values differ among the entries, and their titles."""
    return {key: title for key, title in VARIED.items() if len({str(entry.get(key)) for entry in entries}) > 1}


def told(entry: dict, key: str) -> str:
    """A value of `VARIED` for people; "-" where an older file lacks it."""
    value = entry.get(key)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(f"{number:g}" for number in value)
    return Path(value).name if isinstance(value, str) else f"{value:g}"


def series(entries: Sequence[dict]) -> list[str]:
    """For each entry the line that it belongs to: its branch, and what else differs among them."""
    titles = varied(entries)
    return [
        ", ".join([f"branch {entry['branch']}", *(f"{title} {told(entry, key)}" for key, title in titles.items())])
        for entry in entries
    ]


def metric_plots(metrics: MetricList, entries: Sequence[dict], shown: dict) -> dict[str, str]:
    """SVG plots of results by name: "epochs", "classes" if the main value is a mean over classes, and the matrices."""
    main, title = metrics.main, metrics.numbers[metrics.main]
    plots = {"epochs": epochs_plot(entries, series(entries), main, title)}
    if of_class := metrics.means.get(main):
        plots["classes"] = bars_plot(shown["classes"], shown[of_class], shown[main], metrics.per_class[of_class])
    return plots | {name: matrix_plot(shown["classes"], shown[name]) for name in metrics.matrices}


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
    """Name, colour and values of every class."""
    columns = [entry[key] for key in metrics.per_class]
    return [
        {"name": name, "colour": css(rgb), "values": values}
        for name, rgb, *values in zip(entry["classes"], classes.palette, *columns, strict=True)
    ]


def example_row(example: Example, classes: Classes) -> dict:
    """Name, score and the four pictures of an example as data URIs: image, overlay, prediction, ground truth."""
    palette = classes.palette
    pictures = {
        "image": example.image,
        "overlay": overlay(example.image, example.prediction, palette, OPACITY),
        "prediction": colour(example.prediction, palette),
        "ground truth": colour(example.label, palette),
    }
    return {
        "name": example.name,
        "score": example.score,
        "pictures": {name: data_uri(picture) for name, picture in pictures.items()},
    }


def data_uri(picture: np.ndarray) -> str:
    """An RGB picture (H, W, 3) uint8 as a JPEG in the page itself, scaled down to `EXAMPLE_HEIGHT`."""
    height, width = picture.shape[:2]
    if height > EXAMPLE_HEIGHT:
        size = (max(round(width * EXAMPLE_HEIGHT / height), 1), EXAMPLE_HEIGHT)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def css(entry: tuple[int, int, int]) -> str:
    """(255, 0, 0) as "#ff0000"."""
    return "#{:02x}{:02x}{:02x}".format(*entry)
