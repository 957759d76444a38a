"""Scores belong to what was evaluated (content of the file, images, run); errors in drawing do not lose them."""

import json
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.identity import snapshot_digest
from furnace.engine.record import RECORD, REPORT, RESULTS, TRAINING_METRICS, append_metrics
from furnace.inference import results
from furnace.inference.evaluator import Evaluator
from furnace.inference.results import read_results, results_table
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_run import NARROW, place

SIDE = 40


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path, lively_snapshot: Path) -> Settings:
    C = make_settings(log_dir=str(tmp_path / "log"), eval_crop_size=SIDE, eval_batch_size=2, **NARROW)
    place(lively_snapshot, C)
    return C


def evaluate(C: Settings, which: str = "last", branch: str | None = None) -> list[dict]:
    Evaluator(C, CPU, branch, console=Console(quiet=True)).run(which)
    return entries(C)


def entries(C: Settings) -> list[dict]:
    return read_results(Path(C.log_dir) / RESULTS)


def change(path: Path, factor: float = 1, **parts: dict) -> None:
    """Replace a snapshot by one with other weights or other parts, under the same name."""
    content = torch.load(path, weights_only=True)
    content["model"] = {key: factor * value for key, value in content["model"].items()}
    path.unlink()  # writing through the hard link would change the shared file
    torch.save(content | parts, path)


def test_an_entry_records_its_origin(C: Settings) -> None:
    (entry,) = evaluate(C)
    assert entry["sha256"] == snapshot_digest(entry["snapshot"])
    assert entry["amp"] == "off" and len(entry["images_content"]) == 32


def test_scores_of_an_earlier_content_of_a_file_are_dropped(C: Settings, lively_snapshot: Path) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    evaluate(C, "1-3")
    evaluate(C, "1-3", "2")
    change(Path(C.snapshot_dir) / "epoch-3.pth", 0.9)
    kept = [(entry["epoch"], entry["branch"], Path(entry["snapshot"]).name) for entry in evaluate(C, "1")]
    assert {name for *_, name in kept} == {"epoch-1.pth"} and len(kept) == 2
    assert len(evaluate(C, "3")) == 3


def test_scores_of_a_file_that_was_only_touched_or_pruned_are_kept(C: Settings, lively_snapshot: Path) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    evaluate(C, "1-3")
    (Path(C.snapshot_dir) / "epoch-1.pth").touch()
    (Path(C.snapshot_dir) / "epoch-3.pth").unlink()
    assert len(evaluate(C, "last")) == 3


def test_other_images_under_the_same_list_are_another_evaluation(C: Settings) -> None:
    evaluate(C)
    path = Path(C.eval_source)
    path.write_text("\n".join(reversed(path.read_text().split())))
    assert len(evaluate(C)) == 2


@pytest.mark.parametrize("together", [True, False], ids=["in two threads", "one within the other"])
def test_two_evaluations_at_once_are_both_kept(C: Settings, lively_snapshot: Path, monkeypatch, together: bool) -> None:
    place(lively_snapshot, C, "epoch-3.pth")
    read = results.read_results
    evaluators = [Evaluator(C, CPU, console=Console(quiet=True)) for _ in range(2)]
    other = threading.Thread(target=lambda: evaluators[1].run("3"))

    def read_slowly(path: Path) -> list[dict]:
        found = read(path)
        monkeypatch.setattr(results, "read_results", read)
        if together:
            other.start()
        else:
            evaluators[1].run("3")
        return found

    monkeypatch.setattr(results, "read_results", read_slowly)
    evaluators[0].run("1")
    if together:
        other.join()
    assert [Path(entry["snapshot"]).name for entry in entries(C)] == ["epoch-1.pth", "epoch-3.pth"]


@pytest.mark.parametrize("missing", ["miou", "miou_no_background", "pixel_accuracy", "iou", "classes", "scales"])
def test_entries_of_older_versions_do_not_end_an_evaluation(C: Settings, missing: str) -> None:
    (entry,) = evaluate(C, "last", "2")
    del entry[missing]
    broken = [{"snapshot": 1, "branch": "1", "epoch": 3}, {"snapshot": "a", "branch": "1", "epoch": "last"}, 7]
    (Path(C.log_dir) / RESULTS).write_text(json.dumps([entry, *broken]))
    (Path(C.log_dir) / REPORT).unlink()
    assert len(evaluate(C, "last", "1")) == 2
    assert (Path(C.log_dir) / REPORT).is_file()


@pytest.mark.parametrize("name", ["road [paved]", "[/]", "[bold]a", '"><script>', "a$b$", "$\\frac$", "_x", "'"])
def test_any_class_name_is_shown_as_it_is(C: Settings, name: str) -> None:
    classes = {"names": [name] * C.num_classes, "palette": [[0, 0, 0]] * C.num_classes}
    change(Path(C.snapshot_dir) / "epoch-1.pth", classes=classes)
    console = Console(file=StringIO(), width=200)
    (entry,) = evaluate(C, "1")
    console.print(results_table(entry, Evaluator(C, CPU, console=Console(quiet=True)).metrics))
    assert console.file.getvalue().count(name) == C.num_classes
    assert '<script>"' not in (Path(C.log_dir) / REPORT).read_text()


def test_scores_are_saved_before_anything_is_drawn(C: Settings, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("drawing")

    monkeypatch.setattr("furnace.inference.evaluator.results_table", fails)
    with pytest.raises(RuntimeError, match="drawing"):
        evaluate(C)
    assert len(entries(C)) == 1


def test_weights_that_are_not_finite_are_named_not_evaluated(C: Settings) -> None:
    change(Path(C.snapshot_dir) / "epoch-1.pth", np.nan)
    with pytest.raises(UserError, match=r"epoch-1.pth: branch1.* holds values that are not finite"):
        evaluate(C, "1")
    assert not entries(C)


def test_recipe_and_curves_of_the_report_are_those_of_the_evaluated_snapshot(C: Settings, lively_snapshot, tmp_path):
    record = {"run": "another", "settings": {"lr": 0.123}, "started": "", "device": "", "processes": 1, "command": []}
    (Path(C.snapshot_dir) / RECORD).write_text(json.dumps({**record, "lists": {}, "versions": {}}))
    append_metrics(Path(C.log_dir) / TRAINING_METRICS, {"iteration": 0, "loss": 1.0}, "another")
    for path in (Path(C.snapshot_dir) / "epoch-1.pth", tmp_path / "other/epoch-1.pth"):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(lively_snapshot.read_bytes())
        evaluate(C, str(path))
        page = (Path(C.log_dir) / REPORT).read_text()
        assert (
            '<td>lr</td><td class="value">0.123</td>' not in page and '<td>lr</td><td class="value">0.005</td>' in page
        )
        assert "<figcaption>losses" not in page
    change(Path(C.snapshot_dir) / "epoch-1.pth", identity={"run": "another"})
    evaluate(C, "1")
    assert "<figcaption>losses" in (Path(C.log_dir) / REPORT).read_text()
