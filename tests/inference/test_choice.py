"""The snapshots that `-e` names, the best of those that were evaluated among them."""

import json
from pathlib import Path

import pytest

from furnace.engine.distributed import CPU
from furnace.engine.record import RESULTS
from furnace.engine.snapshot_folder import LAST
from furnace.inference.choice import choose_snapshot, choose_snapshots
from furnace.inference.evaluator import Evaluator
from furnace.inference.results import read_results
from furnace.utils.errors import UserError
from tests.tiny_run import place


def test_one_snapshot_is_found_and_several_are_refused(C, lively_snapshot) -> None:
    place(lively_snapshot, C, "epoch-2.pth")
    folder = Path(C.snapshot_dir)
    assert choose_snapshot(C, "2", "exporting") == folder / "epoch-2.pth"
    assert choose_snapshots(C, "last") == [folder / LAST]
    with pytest.raises(UserError, match="-e 1-: names 2 snapshots; exporting takes one, such as -e last or -e best"):
        choose_snapshot(C, "1-", "exporting")


def test_the_best_snapshot_has_the_highest_score_of_the_last_evaluation_s_kind(C, lively_snapshot, console) -> None:
    place(lively_snapshot, C, "epoch-2.pth", "epoch-3.pth")
    folder, path = Path(C.snapshot_dir), Path(C.log_dir) / RESULTS
    with pytest.raises(UserError, match=r"-e best: .*results\.json has no mIoU of the snapshots in .*eval\.py -e 0-"):
        choose_snapshots(C, "best")
    Evaluator(C, CPU, console=console).run("1-3")
    mirrored = C.updated(eval_flip=True)
    Evaluator(mirrored, CPU, "2", console=console).run("2")
    entries = sorted(read_results(path), key=lambda entry: entry["branch"])
    assert [entry["branch"] for entry in entries] == ["1", "1", "1", "2"]

    def best(scores: list[float], branch: str | None = None, latest: int = 0) -> str:
        for number, (entry, score) in enumerate(zip(entries, scores, strict=True)):
            entry |= {"miou": score, "finished": f"2026-01-0{2 if number == latest else 1}T00:00:00"}
        path.write_text(json.dumps(entries))
        (found,) = choose_snapshots(C, "best", branch)
        return found.name

    assert best([0.1, 0.3, 0.2, 0.9]) == "epoch-2.pth", "the scores of other conditions do not compare"
    assert best([0.4, 0.3, 0.2, 0.1]) == "epoch-1.pth"
    assert best([0.4, 0.3, 0.2, 0.1], latest=3) == "epoch-2.pth"
    assert best([0.4, 0.3, 0.2, 0.1], branch="1", latest=3) == "epoch-1.pth"
    assert best([0.2, 0.2, 0.2, 0.1], branch="1") == "epoch-1.pth", "three links to a file of epoch 1"
    with pytest.raises(UserError, match="has no mIoU of branch both"):
        choose_snapshots(C, "best", "both")
    with pytest.raises(UserError, match="has no boundary mIoU of"):
        choose_snapshots(C.updated(eval_metrics=("boundary_iou",)), "best")
    (folder / "epoch-2.pth").unlink()
    assert best([0.1, 0.3, 0.2, 0.9]) == "epoch-3.pth", "snapshots that are gone do not count"
