"""Scores of an evaluation against the plain network and torchmetrics, and the files with these scores."""

import json
import os
import re
import shutil
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from furnace.datasets.splits import read_list
from furnace.engine.distributed import CPU
from furnace.engine.record import REPORT, RESULTS
from furnace.inference import results, segmenter
from furnace.inference.evaluator import Evaluator
from furnace.inference.results import best_entry, read_results
from furnace.inference.segmenter import Segmenter
from furnace.seg_opr.metrics import METRICS, TAKEN, Metric
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY
from tests.tiny_data import PALETTE, blocky_label, write_image, write_palette_label
from tests.tiny_run import NARROW, SIDE, load_plain, place, write_lively


@torch.no_grad()
def plain_predictions(C: Settings, branch: int = 1) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, prediction and label of every validation image, predicted in the middle of a window of zeros."""
    network = load_plain(Path(C.snapshot_dir) / "epoch-1.pth", C)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (C.image_mean, C.image_std))
    found = []
    for sample in read_list(C.eval_source, C.dataset_path, C.eval_folder):
        pixels = torch.tensor(np.asarray(Image.open(sample.image).convert("RGB"))).permute(2, 0, 1) / 255
        height, width = pixels.shape[1:]
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        window = torch.zeros(1, 3, SIDE, SIDE)
        window[0, :, top : top + height, left : left + width] = (pixels - mean) / std
        labels = network(window, branch)[0].argmax(0)[top : top + height, left : left + width]
        found.append((sample.name, labels, torch.tensor(np.asarray(Image.open(sample.label))).long()))
    return found


@pytest.mark.parametrize("branch", ["1", "2"])
def test_scores_are_those_of_torchmetrics(C, branch, console):
    (result,) = Evaluator(C, CPU, branch, console=console).run("last")
    predictions = plain_predictions(C, int(branch))
    predicted = torch.cat([labels.flatten() for _, labels, _ in predictions])
    target = torch.cat([label.flatten() for _, _, label in predictions])
    assert len(predicted.unique()) > 2
    iou = MulticlassJaccardIndex(C.num_classes, average=None, ignore_index=255)(predicted, target)
    accuracy = MulticlassAccuracy(C.num_classes, average="micro", ignore_index=255)(predicted, target)
    torch.testing.assert_close(result.values["iou"].nan_to_num(0).float(), iou)
    torch.testing.assert_close(result.values["pixel_accuracy"].float(), accuracy, rtol=1e-6, atol=0)
    assert result.values["miou"].item() == pytest.approx(iou[iou.isfinite()].mean().item(), abs=1e-6)
    for (name, labels, label), found_name, found in zip(predictions, result.names, result.per_image, strict=True):
        present = sorted(set(label.unique().tolist()) - {255} | set(labels[label != 255].unique().tolist()))
        ious = [
            ((labels == c) & (label == c)).sum() / (((labels == c) | (label == c)) & (label != 255)).sum()
            for c in present
        ]
        assert found_name == name
        assert found.item() == pytest.approx(torch.stack(ious).mean().item())


def test_results_and_report_are_written(C, lively_snapshot, tmp_path, console):
    place(lively_snapshot, C, "epoch-3.pth")
    Evaluator(C, CPU, save_to=tmp_path / "pictures", console=console).run("1-")
    Evaluator(C, CPU, "both", console=console).run("3")
    (result,) = Evaluator(C, CPU, "1", console=console).run("3")
    entries = json.loads((tmp_path / "log" / RESULTS).read_text())
    assert [(Path(e["snapshot"]).name, e["branch"]) for e in entries] == [
        ("epoch-1.pth", "1"),
        ("epoch-3.pth", "1"),
        ("epoch-3.pth", "both"),
    ]
    assert entries[1]["miou"] == result.values["miou"].item()
    assert entries[1]["confusion"] == result.values["confusion"].tolist()
    assert entries[1]["per_image"] == dict(zip(result.names, result.per_image.tolist(), strict=True))
    assert entries[0]["confusion"] == entries[1]["confusion"] != entries[2]["confusion"]
    page = (tmp_path / "log" / REPORT).read_text()
    assert f'id="miou">{100 * result.values["miou"]:.2f}<' in page
    assert all(f"{name}: mIoU {100 * miou:.2f}" in page for name, miou in entries[1]["per_image"].items())
    for name, labels, label in plain_predictions(C):
        written = np.asarray(Image.open(tmp_path / "pictures" / "epoch-3" / "label" / f"{name}.png"))
        np.testing.assert_array_equal(written, labels)
        strip = Image.open(tmp_path / "pictures" / "epoch-3" / "strip" / f"{name}.png")
        assert strip.size == (3 * label.shape[1] + 2 * 4, label.shape[0])


def test_table_and_log_name_every_class(C, tmp_path, console):
    (result,) = Evaluator(C, CPU, console=console).run("last")
    shown = console.file.getvalue()
    assert "\x1b" not in shown  # no colours without a terminal
    assert "tvmonitor" in shown and "aeroplane" in shown
    occurring = int((~result.values["iou"].isnan()).sum())
    miou = f"mIoU {100 * result.values['miou']:.2f} over {occurring} of 21 classes"
    assert f"  {miou}  " in shown, "below the table"
    assert f"{miou}, mIoU without class 0 " in (tmp_path / "log" / "val_last.log").read_text()
    assert f"over {occurring} of 21 classes" in (tmp_path / "log" / REPORT).read_text()


def test_the_best_of_several_snapshots_has_a_table_of_classes_and_all_have_a_row(C, lively_snapshot, tmp_path, console):
    place(lively_snapshot, C, "epoch-0.pth")
    results = Evaluator(C, CPU, console=console).run("0-1")
    shown = console.file.getvalue()
    assert shown.count("aeroplane") == 1
    rows = re.findall(r"(epoch-\d\.pth)\W+([\d.]+) ", shown)
    assert rows == [(Path(result.snapshot).name, f"{100 * result.values['miou']:.2f}") for result in results]


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("names", [["iou", "recall"], ["recall"]])
def test_a_new_metric_is_shown_everywhere(C, tmp_path, names, console):
    """The metric is the example of docs/metrics.md, which no other file names."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "metrics.md").read_text(), flags=re.DOTALL)
    exec(code, {})
    (result,) = Evaluator(C.updated(eval_metrics=names), CPU, console=console).run("1")
    shown, log = console.file.getvalue(), (tmp_path / "log" / "val_last.log").read_text()
    page = (tmp_path / "log" / REPORT).read_text()
    (entry,) = read_results(tmp_path / "log" / RESULTS)
    lowest = 100 * result.values["lowest_recall"]
    assert f"lowest recall {lowest:.2f}" in shown and f"lowest recall {lowest:.2f}" in log
    assert "class recall" in shown and "<button>class recall</button>" in page
    assert entry["lowest_recall"] == min(value for value in entry["recall"] if value is not None)
    assert f'id="lowest_recall">{lowest:.2f}<' in page
    if "iou" in names:
        assert entry["recall"] == entry["accuracy"] and "mIoU over epochs" in page
    else:
        assert "IoU" not in shown + log + page and "miou" not in entry
        assert "lowest recall over epochs" in page and f"{result.names[0]}: lowest recall " in page


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("names", [["iou", "lame"], ["lame"]])
def test_a_metric_that_does_not_give_its_values_is_named_before_the_work(C, names, console, monkeypatch):
    monkeypatch.setattr(Segmenter, "stream", lambda *_: pytest.fail("the work has begun"))

    @METRICS.register("lame")
    class Lame(METRICS["iou"]):
        numbers: ClassVar = {"missing": "missing"}
        per_class, matrices = {}, {}

    message = "metric Lame: compute() gives no 'missing', which the class names; it gives 'miou', 'miou_no"
    with pytest.raises(UserError, match=re.escape(message)):
        Evaluator(C.updated(eval_metrics=names), CPU, console=console).run("1")


def test_names_of_the_entries_are_taken(C, tmp_path, console):
    (result,) = Evaluator(C, CPU, console=console).run("1")
    (entry,) = read_results(tmp_path / "log" / RESULTS)
    assert entry.keys() - result.values.keys() == TAKEN


@pytest.mark.usefixtures("registries")
def test_a_number_that_is_no_share_is_noted(C, console):
    @METRICS.register("wild")
    class Wild(Metric):
        numbers: ClassVar = {"wild": "wild number"}

        def __init__(self, num_classes: int, device: torch.device):
            self.state = torch.zeros(1, dtype=torch.int64, device=device)

        def update(self, labels: torch.Tensor, prediction: torch.Tensor) -> None:
            self.state += 1

        def compute(self) -> dict[str, torch.Tensor]:
            return {"wild": self.state.sum() * 10.0}

    Evaluator(C.updated(eval_metrics=["wild"]), CPU, console=console).run("1")
    assert "wild number (wild) is 30; numbers of metrics lie in [0, 1]" in console.file.getvalue()


def test_images_of_one_name_in_two_folders_are_kept_apart(C, tmp_path, lively_snapshot, console):
    rng, lines = np.random.default_rng(0), []
    for camera, number in product("ab", range(3)):
        label = blocky_label(rng, (24, 30))
        write_palette_label(tmp_path / "own" / "m" / camera / f"{number}.png", label)
        write_image(tmp_path / "own" / "i" / camera / f"{number}.png", PALETTE[label])
        lines.append(f"i/{camera}/{number}.png\tm/{camera}/{number}.png")
    (tmp_path / "own" / "val.txt").write_text("\n".join(lines))
    C = C.updated(dataset_path=str(tmp_path / "own"), eval_source=str(tmp_path / "own" / "val.txt"))
    Evaluator(C, CPU, save_to=tmp_path / "pictures", console=console).run("1")
    (entry,) = read_results(tmp_path / "log" / RESULTS)
    names = {f"i/{camera}/{number}" for camera, number in product("ab", range(3))}
    assert entry["per_image"].keys() == names
    for kind in ("strip", "label"):
        folder = tmp_path / "pictures" / "epoch-1" / kind
        assert {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")} == names


def test_title_of_the_report_is_the_method_that_was_evaluated(make_settings, tmp_path, console):
    changes = {**NARROW, "eval_crop_size": SIDE, "log_dir": str(tmp_path / "log")}
    supervised = make_settings(method="supervised", **changes)
    place(write_lively(supervised, tmp_path / "supervised.pth"), supervised)
    Evaluator(make_settings(**changes), CPU, console=console).run("last")
    page = (tmp_path / "log" / REPORT).read_text()
    assert "<title>exp_voc: supervised on pascal_voc</title>" in page


def test_scores_under_other_conditions_are_kept_beside_the_plain_ones(C, tmp_path, console):
    settings = {
        "scales": "eval_scale_array",
        "flip": "eval_flip",
        "crop": "eval_crop_size",
        "stride_rate": "eval_stride_rate",
    }
    plain = {"scales": [1.0], "flip": False, "crop": SIDE, "stride_rate": C.eval_stride_rate}
    changes = [{}, {"scales": [0.5, 1]}, {"flip": True}, {"crop": 32}, {"stride_rate": 1}]
    for change in [*changes, {"flip": True}]:
        changed = C.updated(**{settings[name]: value for name, value in change.items()})
        (result,) = Evaluator(changed, CPU, console=console).run("1")
    entries = read_results(tmp_path / "log" / RESULTS)
    assert [{name: entry[name] for name in plain} for entry in entries] == [plain | change for change in changes]
    assert entries[2]["miou"] == result.values["miou"].item()
    # A relative path or a link refers to the same snapshot.
    (tmp_path / "link").symlink_to(C.snapshot_dir)
    Evaluator(C, CPU, console=console).run(str(tmp_path / "link" / "epoch-1.pth"))
    assert len(read_results(tmp_path / "log" / RESULTS)) == len(changes)


def test_entries_of_older_files_stay(C, tmp_path, console):
    path = tmp_path / "log" / RESULTS
    Evaluator(C, CPU, console=console).run("1")
    (entry,) = read_results(path)
    old = {key: value for key, value in entry.items() if key not in ("scales", "flip", "stride_rate")}
    path.write_text(json.dumps([old]))
    Evaluator(C, CPU, console=console).run("1")
    assert [len(found) for found in read_results(path)] == [len(old), len(entry)]


def test_without_a_labelled_pixel_there_is_nothing_to_measure(C, lively_snapshot, tmp_path, console):
    place(lively_snapshot, C, "epoch-3.pth")
    for sample in read_list(C.eval_source, C.dataset_path, C.eval_folder):
        size = Image.open(sample.label).size
        Image.fromarray(np.full(size[::-1], 255, dtype=np.uint8)).save(sample.label)
    evaluator = Evaluator(C, CPU, console=console)
    results = evaluator.run("1-")
    assert len(results) == 2 and all(result.values["miou"].isnan() for result in results)
    entry = read_results(tmp_path / "log" / RESULTS)[0]
    assert entry["miou"] is None and evaluator.metrics.rank_of(entry) < 0
    assert 'id="miou">-<' in (tmp_path / "log" / REPORT).read_text()
    assert "mIoU - over 0 of 21 classes" in console.file.getvalue()


@pytest.mark.parametrize("content", ["", "{", "5", "[1, {}]", '[{"snapshot": "a"}]'])
def test_unreadable_results_are_read_as_empty(tmp_path, content):
    (tmp_path / RESULTS).write_text(content)
    assert read_results(tmp_path / RESULTS) == []


def test_folders_that_can_not_be_written_are_named(C, tmp_path, console):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match=r"a_file/.*can't be written"):
        Evaluator(C, CPU, save_to=tmp_path / "a_file", console=console).run("1")
    C = C.updated(log_dir=str(tmp_path / "a_file"))
    with pytest.raises(UserError, match="a_file: can't be written"):
        Evaluator(C, CPU, console=console).run("1")


def test_missing_list_and_snapshot(C, console):
    evaluator = Evaluator(C, CPU, console=console)
    with pytest.raises(UserError, match="no such snapshot"):
        evaluator.run("5")
    C = C.updated(eval_source="nowhere.txt")
    with pytest.raises(UserError, match=r"nowhere\.txt: no such list"):
        Evaluator(C, CPU, console=console)


def test_an_image_that_would_count_twice_is_refused(C, tmp_path, console):
    folder = Path(C.dataset_path) / C.eval_folder
    image, label = next((folder / "image").iterdir()), next((folder / "label").iterdir())
    (tmp_path / "twice.txt").write_text(f"{image}\t{label}\n{folder}/label/../image/{image.name}\t{label}\n")
    C = C.updated(eval_source=str(tmp_path / "twice.txt"))
    with pytest.raises(UserError, match=rf"twice\.txt: names .*{image.name} again"):
        Evaluator(C, CPU, console=console)
    os.link(image, tmp_path / "linked.png")
    shutil.copy(label, tmp_path / "other.png")
    for pair in (f"{image}\t{tmp_path / 'other.png'}", f"{tmp_path / 'linked.png'}\t{label}"):
        # Other labels of one image, and one image under two names, are no slip.
        (tmp_path / "twice.txt").write_text(f"{image}\t{label}\n{pair}\n")
        assert len(Evaluator(C, CPU, console=console).samples) == 2


def test_a_strip_is_image_prediction_and_truth(C, tmp_path, console) -> None:
    evaluator = Evaluator(C, CPU, save_to=tmp_path / "pictures", console=console)
    evaluator.segmenter.load(Path(C.snapshot_dir) / "epoch-1.pth")
    image = np.full((4, 6, 3), 77, np.uint8)
    evaluator.save_pictures("s", "a", image, np.full((4, 6), 2, np.uint8), torch.ones(4, 6, dtype=torch.int64))
    picture = np.asarray(Image.open(tmp_path / "pictures/s/strip/a.png"))
    palette = evaluator.segmenter.classes.palette
    columns = [tuple(int(value) for value in picture[1, x]) for x in (2, 2 + 10, 2 + 20)]
    assert columns == [(77, 77, 77), palette[1], palette[2]]


def test_images_of_the_report_are_those_of_its_scores(C, console) -> None:
    evaluator = Evaluator(C.updated(amp="off"), CPU, console=console)
    (result,) = evaluator.run("1")
    plain = {name: (labels, label) for name, labels, label in plain_predictions(C)}
    for name, shows in zip(result.names, result.shows, strict=True):
        assert set(shows.nonzero().flatten().tolist()) == set(plain[name][1].unique().tolist()) - {255}
    (entry,) = read_results(Path(C.log_dir) / RESULTS)
    entry["per_image"][result.names[1]] = None
    shown = evaluator.examples(entry, result.shows, {})
    evaluator.segmenter.stream = lambda images: iter(list(images))  # makes no predictions
    kept = evaluator.examples(entry, result.shows, result.labels)
    assert all((a.prediction == b.prediction).all() for a, b in zip(shown, kept, strict=True))
    assert [example.score for example in shown] == sorted(score for score in entry["per_image"].values() if score)
    for example in shown:
        assert example.score == entry["per_image"][example.name]
        np.testing.assert_array_equal(example.prediction, plain[example.name][0])
        np.testing.assert_array_equal(example.label, plain[example.name][1])


def test_only_the_best_of_several_keeps_its_labels(C, lively_snapshot, console) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    results = Evaluator(C, CPU, console=console).run("1-3")
    best = max(range(len(results)), key=lambda i: results[i].values["miou"])
    assert [sorted(result.labels) for result in results] == [
        list(range(len(result.names))) if i == best else [] for i, result in enumerate(results)
    ]


def test_the_report_shows_the_best_snapshot_evaluated_so_far(C, lively_snapshot, tmp_path, console) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    path = tmp_path / "log" / RESULTS
    Evaluator(C, CPU, console=console).run("1")
    (entry,) = read_results(path)
    path.write_text(json.dumps([entry | {"miou": 0.99}]))

    def shown(C: Settings) -> str:
        Evaluator(C, CPU, console=console).run("3")
        return re.search(r"(epoch-\d)\.pth(?:, the best of \d)?, branch", (tmp_path / "log" / REPORT).read_text())[1]

    assert shown(C) == "epoch-1"
    assert shown(C.updated(eval_flip=True)) == "epoch-3", "other conditions do not compare"
    (Path(C.snapshot_dir) / "epoch-1.pth").unlink()
    assert shown(C) == "epoch-3"


def test_of_equal_snapshots_the_latest_is_the_best(C, lively_snapshot, tmp_path, console) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    evaluator = Evaluator(C, CPU, console=console)
    evaluator.run("1-")
    first, second = read_results(tmp_path / "log" / RESULTS)
    assert first["miou"] == second["miou"] and first["epoch"] == second["epoch"]
    second["epoch"] += 2
    for entry in (first, second):
        assert best_entry([first, second], entry, evaluator.metrics) is second
    assert best_entry([first, second | {"classes": ["others"]}], first, evaluator.metrics) is first
    del second["confusion"]
    assert best_entry([first, second], first, evaluator.metrics) is first


@pytest.mark.parametrize(("module", "moment"), [(segmenter, "load_snapshot"), (results, "snapshot_digest")])
def test_a_snapshot_that_is_replaced_during_its_evaluation_is_refused(
    C, lively_snapshot, tmp_path, console, monkeypatch, module, moment: str
) -> None:
    """As by a run that trains: `epoch-last.pth` becomes another file."""
    other, read = torch.load(lively_snapshot, weights_only=True) | {"epoch": 9}, getattr(module, moment)

    def read_before_it_is_replaced(path: Path):
        found = read(path)
        torch.save(other, tmp_path / "new.pth")
        (tmp_path / "new.pth").replace(path)
        return found

    monkeypatch.setattr(module, moment, read_before_it_is_replaced)
    with pytest.raises(UserError, match=r"epoch-1\.pth: was replaced during the evaluation"):
        Evaluator(C, CPU, console=console).run("1")
    assert not (tmp_path / "log" / REPORT).exists()


def test_log_and_report_agree_on_the_best_of_equal_snapshots(C, lively_snapshot, tmp_path, console) -> None:
    later = torch.load(lively_snapshot, weights_only=True)
    torch.save(later | {"epoch": 7}, Path(C.snapshot_dir) / "epoch-7.pth")
    Evaluator(C, CPU, console=console).run("1-")
    assert "best of 2: epoch-7.pth" in (tmp_path / "log" / "val_last.log").read_text()
    assert "epoch-7.pth, the best of 2, branch" in (tmp_path / "log" / REPORT).read_text()
