"""The report page, opened in a headless browser where there is one: it shows what the JSON says, without errors."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.catalog import Classes
from furnace.engine.record import RECORD, TRAINING_METRICS, TRUTH, read_metrics, read_record
from furnace.inference.plots import epochs_plot, matrix_plot
from furnace.inference.report import EXAMPLE_HEIGHT, JUDGED, Example, Training, data_uri, example_row, write_report
from furnace.seg_opr.metrics import MetricList
from furnace.utils.settings import Settings

CLASSES = Classes(("sky & sea", "<b>road</b>", "car"), ((1, 2, 3), (200, 0, 0), (0, 200, 0)))
CONFUSION = [[50, 2, 0], [5, 30, 0], [0, 0, 0]]
SORT = "<script>document.querySelector('#classes').tHead.rows[0].cells[{column}].firstChild.click();</script></body>"


def make_entry(epoch: int, branch: str, miou: float) -> dict:
    return {
        "snapshot": f"/runs/epoch-{epoch}.pth",
        "epoch": epoch,
        "branch": branch,
        "images": 9,
        "eval_source": "/data/val.txt",
        "scales": [1.0],
        "flip": False,
        "seconds": 1.5,
        "finished": "2026-01-01T00:00:00",
        "classes": list(CLASSES.names),
        "iou": [0.8772, 0.8108, None],
        "accuracy": [0.9615, 0.8571, None],
        "pixel_share": [0.5977, 0.4023, 0.0],
        "miou": miou,
        "miou_no_background": 0.8108,
        "pixel_accuracy": 0.9195,
        "mean_accuracy": 0.9093,
        "confusion": CONFUSION,
    }


ENTRIES = [make_entry(2, "1", 0.61), make_entry(4, "1", 0.844), make_entry(4, "2", 0.7)]


def write(C: Settings, entries: list[dict], shown: dict, examples: Sequence[Example] = ()) -> Path:
    """The report of a supervised snapshot with the metric of the default settings, and what its run left there."""
    metrics, truth = (read_metrics(Path(C.log_dir) / name) for name in (TRAINING_METRICS, TRUTH))
    record = read_record(Path(C.snapshot_dir) / RECORD)
    training = Training("supervised", record.get("settings") or C.model_dump(), record, metrics, truth)
    return write_report(C, training, MetricList(["iou"]), entries, shown, examples, CLASSES)


class Page(HTMLParser):
    """The rows of each table by its id, the number of SVG plots, every address, and which elements were opened."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str | None, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        self.addresses += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        if tag == "table":
            self.rows = self.tables.setdefault(given.get("id"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def written(path: Path) -> Page:
    """The page as the file has it."""
    return Page(path.read_text(encoding="utf-8"))


def opened(path: Path) -> Page:
    """The page as a browser builds it, its scripts having run."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on the PATH to open the page with")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    profile = path.parent / "profile"
    done = subprocess.run(
        [*command, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr  # script errors, refused or missing resources
    return Page(done.stdout)


@pytest.fixture
def C(make_settings, tmp_path) -> Settings:
    return make_settings(log_dir=str(tmp_path / "log"))


@pytest.fixture
def report(C, tmp_path) -> Path:
    Path(C.snapshot_dir).mkdir(parents=True)
    records = [{"iteration": i, "loss": 3 / (i + 1), "sup_1": 1.0, "overlap": 0.5, "lr": 0.1} for i in range(0, 40, 10)]
    records[0] |= {"step_seconds": 0.5, "data_seconds": 0.1, "memory_gib": 1.0}
    (tmp_path / "log" / TRAINING_METRICS).write_text("".join(json.dumps(r) + "\n" for r in records) + '{"iteration": 4')
    judged = {f"{name}_{kind}": 0.5 for name in JUDGED for kind in ("miou", "share", "accuracy")}
    (tmp_path / "log" / TRUTH).write_text(json.dumps({"iteration": 3, **judged}) + "\n")
    again = {"started": "2026-01-02T00:00:00", "command": ["train.py", "-c", "auto"], "settings": {"nepochs": 9}}
    run = {
        "started": "2026-01-01T00:00:00",
        "command": ["train.py", "-o", "lr=<1>"],
        "settings": {"lr": 0.123, "train_scale_array": [0.5, 2]},
        "lists": {"labeled": {"path": "/data/train.txt", "images": 7, "sha256": "abc"}},
        "device": "cpu",
        "processes": 1,
        "versions": {"torch": "2"},
        "continuations": [again | {"device": "cpu", "processes": 2}],
    }
    (Path(C.snapshot_dir) / RECORD).write_text(json.dumps(run))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    label = rng.integers(0, 3, (30, 40), dtype=np.uint8)
    examples = [Example(f"image_{i}", 0.9 - i / 10, image, label, label) for i in range(3)]
    return write(C, ENTRIES, ENTRIES[1], examples)


@pytest.mark.parametrize("read", [written, opened])
def test_page_shows_what_the_json_says(report, read):
    page = read(report)
    shown = {(row[0], row[2]): row[3] for row in page.tables["evaluations"][1:]}
    assert shown == {("epoch-2.pth", "1"): "61.00", ("epoch-4.pth", "1"): "84.40", ("epoch-4.pth", "2"): "70.00"}
    assert page.tables["classes"][1:] == [
        ["sky & sea", "87.72", "96.15", "59.77"],
        ["<b>road</b>", "81.08", "85.71", "40.23"],
        ["car", "-", "-", "0.00"],
    ]
    assert ["lr", "0.123"] in page.tables["settings"]
    assert page.tags.count("svg") == 8
    assert page.tags.count("img") == 3 * 4
    text = report.read_text(encoding="utf-8")
    assert re.search(r'id="miou">84\.40<[^\n]*over 2 of 3 classes', text)
    assert "absent from labels and predictions is left out of the mean" in text
    assert [text.index(f"image_{i}: mIoU {90 - 10 * i}.00") for i in range(3)]
    assert "lr=&lt;1&gt;" in text
    again = ["continued", "2026-01-02T00:00:00 on cpu, 2 process(es): train.py -c auto; nepochs = 9"]
    assert again in page.tables[None]


def test_page_needs_nothing_else(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert "link" not in page.tags and "iframe" not in page.tags
    assert page.addresses and all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    assert "url(http" not in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("column", "order"), [(0, ["<b>road</b>", "car", "sky & sea"]), (3, ["sky & sea", "<b>road</b>", "car"])]
)
def test_a_click_sorts(report, column, order):
    text = report.read_text(encoding="utf-8")
    assert "addEventListener" in text
    clicked = report.with_name("clicked.html")
    clicked.write_text(text.replace("</body>", SORT.format(column=column)), encoding="utf-8")
    assert [row[0] for row in opened(clicked).tables["classes"][1:]] == order


def test_page_without_a_training_run(C):
    page = written(write(C, ENTRIES[:1], ENTRIES[0]))
    assert page.tags.count("svg") == 3
    assert ["dataset_name", "pascal_voc"] in page.tables["settings"]


def test_evaluations_show_what_differs(C):
    plain, scaled, old = make_entry(4, "1", 0.61), make_entry(4, "1", 0.64), make_entry(4, "1", 0.62)
    plain["crop"] = scaled["crop"] = old["crop"] = 512
    scaled |= {"scales": [0.5, 1.0], "flip": True}
    del old["scales"]
    path = write(C, [plain, scaled, old], scaled)
    assert [row[1:6] for row in written(path).tables["evaluations"]] == [
        ["epoch", "branch", "scales", "mirrored", "mIoU"],
        ["4", "1", "1", "no", "61.00"],
        ["4", "1", "0.5, 1", "yes", "64.00"],
        ["4", "1", "-", "no", "62.00"],
    ]
    text = path.read_text()
    assert re.search(r'class="shown"><td>[^\n]*64\.00', text) and text.count('class="shown"') == 1
    assert "branch 1, scales 0.5, 1, mirrored yes" in text  # a line of its own over the epochs


@pytest.mark.filterwarnings("error")  # a legend of nothing
def test_plots_of_nothing_to_measure(C):
    nothing = make_entry(2, "1", 0.5) | {"miou": None, "iou": [None] * 3, "pixel_accuracy": None}
    page = written(write(C, [nothing], nothing))
    assert page.tables["evaluations"][1][3] == "-" and page.tags.count("svg") == 3
    assert "branch 1" not in epochs_plot([nothing], ["branch 1"], "miou", "mIoU")
    assert "branch 1" in epochs_plot([nothing, make_entry(4, "1", 0.5)], ["branch 1"] * 2, "miou", "mIoU")


def test_large_pictures_are_scaled_down():
    noise = np.random.default_rng(0).integers(0, 256, (EXAMPLE_HEIGHT, 480, 3), dtype=np.uint8)
    assert len(data_uri(np.zeros((1000, 2000, 3), dtype=np.uint8))) < min(10_000, len(data_uri(noise)))


def test_the_confusion_is_in_percent_of_the_true_class() -> None:
    shown = matrix_plot(["a", "b"], [[30, 10], [0, 60]])
    assert re.findall(r">(\d+)</text>", shown) == ["75", "25", "100"]


def test_pictures_of_an_example_are_what_their_names_say() -> None:
    image = np.full((8, 8, 3), 9, np.uint8)
    example = Example("a", 0.5, image, label=np.zeros((8, 8), np.uint8), prediction=np.ones((8, 8), np.uint8))
    pictures = example_row(example, CLASSES)["pictures"]
    assert pictures["prediction"] == data_uri(np.full((8, 8, 3), CLASSES.palette[1], np.uint8))
    assert pictures["ground truth"] == data_uri(np.full((8, 8, 3), CLASSES.palette[0], np.uint8))
    assert pictures["image"] == data_uri(image)
