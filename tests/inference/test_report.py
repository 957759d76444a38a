"""The report page shows the values of the JSON without errors; opened in a headless browser if there is one."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.catalog import Classes
from furnace.engine.record import RECORD, TRAINING_METRICS, TRUTH, read_metrics, read_record
from furnace.inference.examples import Example
from furnace.inference.plots import epochs_plot
from furnace.inference.report import JUDGED, Training, changed_settings, write_report
from furnace.seg_opr.metrics import MetricList
from furnace.utils.settings import Settings
from tests.browser import Page, opened, overflow, screenshot

CLASSES = Classes(("sky & sea", "<b>road</b>", "car"), ((1, 2, 3), (200, 0, 0), (0, 200, 0)))
CONFUSION = [[50, 2, 0], [5, 30, 0], [0, 0, 0]]
SORT = "document.querySelector('#classes').tHead.rows[0].cells[{column}].firstChild.click();"
ORIGIN = {"commit": "abc1234", "torch": "2.0", "on": "cpu"}


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
    """Write the report of a supervised snapshot with the default metric and the files of its run."""
    metrics, truth = (read_metrics(Path(C.log_dir) / name) for name in (TRAINING_METRICS, TRUTH))
    record = read_record(Path(C.snapshot_dir) / RECORD)
    training = Training("supervised", record.get("settings") or C.model_dump(), record, metrics, truth)
    return write_report(C, training, MetricList(["iou"]), entries, shown, examples, CLASSES, ORIGIN)


def read(path: Path) -> Page:
    """The page as written in the file."""
    return Page(path.read_text(encoding="utf-8"))


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
        "commit": "c0ffee",
        "versions": {"torch": "2"},
        "continuations": [again | {"device": "cpu", "processes": 2}],
    }
    (Path(C.snapshot_dir) / RECORD).write_text(json.dumps(run))
    return write(C, ENTRIES, ENTRIES[1], make_examples())


def make_examples() -> list[Example]:
    """Worst first: <b>road</b> on the right predicted as sky; the same road, found except for a car; only sky."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    label = np.zeros((3, 30, 40), np.uint8)
    prediction = label.copy()
    label[:2, :, 20:] = prediction[1, :, 20:] = 1
    prediction[1, :, 30:] = 2
    return [Example(f"image_{i}", 0.7 + i / 10, image, label[i], prediction[i]) for i in range(3)]


@pytest.mark.parametrize("browser", [False, True])
def test_page_shows_the_values_of_the_json(report, browser):
    page = Page(opened(report)) if browser else read(report)
    shown = [(row[0], row[2], row[3]) for row in page.tables["evaluations"][1:]]
    assert shown == [("epoch-4.pth", "1", "84.40"), ("epoch-4.pth", "2", "70.00"), ("epoch-2.pth", "1", "61.00")]
    assert page.tables["classes"][1:] == [
        ["sky & sea", "87.72", "96.15", "59.77"],
        ["<b>road</b>", "81.08", "85.71", "40.23"],
        ["car", "-", "-", "0.00"],
    ]
    assert page.tables["confusion"] == [
        ["", "sky & sea", "<b>road</b>", "car"],
        ["sky & sea", "96", "4", ""],
        ["<b>road</b>", "14", "86", ""],
        ["car", "", "", ""],
    ]
    assert ["lr", "0.123"] in page.tables["settings"]
    assert page.tags.count("svg") == 6
    assert page.tags.count("img") == 4 + 3 * 4
    assert [alt for alt in page.alts if alt.endswith(" of image_1")] == [
        f"{kind} of image_1" for kind in ("image", "prediction", "ground truth", "errors")
    ]


def test_the_best_snapshot_and_the_picture_come_first(report):
    text = report.read_text(encoding="utf-8")
    order = ["epoch-4.pth, the best of 2, branch 1", 'id="stage"', 'id="miou">84.40<', 'id="gallery"', 'id="classes"']
    order += ['id="evaluations"', "<figcaption>losses", 'id="recipe"']
    assert sorted(order, key=text.index) == order
    assert re.search(r'id="miou">84\.40<[^\n]*over 2 of 3 classes', text)
    assert "leaves out classes that are absent from labels and predictions" in text
    places = [text.index(f"image_{i}: mIoU {70 + 10 * i}.00") for i in range(3)]
    assert places == sorted(places), "the worst image comes first"


def test_files_of_one_name_are_told_apart(C):
    elsewhere = make_entry(2, "1", 0.9) | {"snapshot": "/other/epoch-2.pth", "run": "another"}
    path = write(C, [ENTRIES[0], elsewhere, ENTRIES[1]], elsewhere)
    assert "/other/epoch-2.pth, branch 1" in path.read_text(encoding="utf-8"), "no other evaluation of this run"
    names = [row[0] for row in read(path).tables["evaluations"][1:]]
    assert sorted(names) == sorted(["/other/epoch-2.pth", ENTRIES[0]["snapshot"], "epoch-4.pth"])


def test_recipe_and_versions(report):
    tables = read(report).tables
    recipe = dict(tables["recipe"])
    assert recipe["trained"] == "2026-01-01T00:00:00 on cpu, 1 process(es): train.py -o lr=<1>"
    assert recipe["continued"] == "2026-01-02T00:00:00 on cpu, 2 process(es): train.py -c auto; nepochs = 9"
    assert (recipe["trained with"], recipe["page made with"]) == (
        "commit c0ffee, torch 2",
        "commit abc1234, torch 2.0, on cpu",
    )
    assert "lr=&lt;1&gt;" in report.read_text(encoding="utf-8")
    assert tables["changed"][1:] == [
        ["lr", "0.123", ""],
        ["train_scale_array", "[0.5, 2]", "(0.5, 0.75, 1, 1.5, 1.75, 2.0)"],
    ]


def test_settings_at_their_defaults_are_not_listed(make_settings):
    C = make_settings(momentum=0.5)
    stored = json.loads(json.dumps(C.model_dump())) | {"of_an_older_version": 1}
    changed = changed_settings(stored)
    assert changed["momentum"] == (0.5, 0.9) and changed["of_an_older_version"] == (1, None)
    assert changed["seed"] == (7, 12345) and changed["lr"] == (C.lr, None)
    assert not changed.keys() & {"log_dir", "snapshot_dir", "train_scale_array", "decoder", "image_mean"}


def test_page_needs_no_other_file(report):
    page = read(report)
    assert "link" not in page.tags and "iframe" not in page.tags
    assert page.addresses and all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "url(http" not in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("column", "order"), [(0, ["<b>road</b>", "car", "sky & sea"]), (3, ["sky & sea", "<b>road</b>", "car"])]
)
def test_a_click_sorts(report, column, order):
    assert [row[0] for row in Page(opened(report, SORT.format(column=column))).tables["classes"][1:]] == order


LOOK = """
const set = (id, value, kind) => { byId(id).value = value; byId(id).dispatchEvent(new Event(kind)); };
const clip = () => ["prediction", "truth"].map(kind => stage.querySelector("." + kind).style.clipPath);
const shown = () => [...document.querySelectorAll(".example:not(.hidden) figcaption")];
const seen = () => shown().map(caption => caption.textContent.slice(0, 7));
const looks = { first: [seen(), byId("caption").textContent, stage.querySelector("img").alt, clip()] };
for (const value of [0, 100, 130, 200]) { set("wipe", value, "input"); looks[value] = clip(); }
looks.spoken = byId("wipe").getAttribute("aria-valuetext");
set("order", "best", "change"); looks.best = seen();
set("class", "1", "change"); looks.road = seen();
set("order", "worst", "change"); looks.worstRoad = seen();
set("class", "2", "change"); looks.car = seen();
document.querySelector('.matrix [data-error="1-0"]').click();
looks.error = [seen(), byId("error").value, byId("class").value];
document.querySelector('.matrix [data-error="0-1"]').click();
looks.none = [seen(), byId("found").textContent];
document.body.innerHTML = ""; document.body.append(JSON.stringify(looks));
"""


def test_slider_and_filters_move(report):
    looks = json.loads(opened(report, LOOK).split("<body>")[1].split("</body>")[0])
    everything = ["image_0", "image_1", "image_2"]
    half = ["inset(0px 50% 0px 0px)", "inset(0px 100% 0px 0px)"]
    assert looks["first"] == [everything, "image_0: mIoU 70.00", "image of image_0", half]
    assert looks["0"] == ["inset(0px 100% 0px 0px)"] * 2
    assert looks["100"] == ["inset(0px 0% 0px 0px)", "inset(0px 100% 0px 0px)"]
    assert looks["130"] == ["inset(0px 0px 0px 30%)", "inset(0px 70% 0px 0px)"]
    assert looks["200"] == ["inset(0px 0px 0px 100%)", "inset(0px 0% 0px 0px)"] and looks["spoken"] == "ground truth"
    assert looks["best"] == everything[::-1]
    assert (looks["road"], looks["worstRoad"], looks["car"]) == (
        ["image_1", "image_0"],
        ["image_0", "image_1"],
        ["image_1"],
    )
    assert looks["error"] == [["image_0"], "1-0", ""]
    assert looks["none"] == [[], "no matching image"]


def test_light_dark_and_phone(report):
    light, dark = (screenshot(report, dark) for dark in (False, True))
    assert light.shape == (900, 1200, 3) and len(np.unique(light.reshape(-1, 3), axis=0)) > 100
    assert light[0, 0].min() > 240 and dark[0, 0].max() < 40
    assert overflow(report, 390) == 0


def test_page_without_a_training_run(C):
    page = read(write(C, ENTRIES[:1], ENTRIES[0]))
    assert page.tags.count("svg") == 1 and "img" not in page.tags
    assert ["dataset_name", "pascal_voc"] in page.tables["settings"]


def test_page_without_images_opens_without_errors(C):
    opened(write(C, ENTRIES[:1], ENTRIES[0]))


def test_evaluations_show_what_differs(C):
    plain, scaled, old = make_entry(4, "1", 0.61), make_entry(4, "1", 0.64), make_entry(4, "1", 0.62)
    plain["crop"] = scaled["crop"] = old["crop"] = 512
    scaled |= {"scales": [0.5, 1.0], "flip": True}
    del old["scales"]
    path = write(C, [plain, scaled, old], scaled)
    assert [row[1:6] for row in read(path).tables["evaluations"]] == [
        ["epoch", "branch", "scales", "mirrored", "mIoU"],
        ["4", "1", "0.5, 1", "yes", "64.00"],
        ["4", "1", "-", "no", "62.00"],
        ["4", "1", "1", "no", "61.00"],
    ]
    text = path.read_text()
    assert re.search(r'class="shown"><td>[^\n]*64\.00', text) and text.count('class="shown"') == 1
    assert "branch 1, scales 0.5, 1, mirrored yes" in text  # it has its own line over the epochs


@pytest.mark.filterwarnings("error")  # such as that of an empty legend
def test_plots_of_nothing_to_measure(C):
    nothing = make_entry(2, "1", 0.5) | {"miou": None, "iou": [None] * 3, "pixel_accuracy": None}
    page = read(write(C, [nothing], nothing))
    assert page.tables["evaluations"][1][3] == "-" and page.tags.count("svg") == 1
    assert "branch 1" not in epochs_plot([nothing], ["branch 1"], "miou", "mIoU")
    assert "branch 1" in epochs_plot([nothing, make_entry(4, "1", 0.5)], ["branch 1"] * 2, "miou", "mIoU")
