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
from furnace.utils import terminal
from furnace.utils.errors import UserError
from tests.tiny_run import place


def test_one_snapshot_is_found_and_several_are_refused(C, lively_snapshot) -> None:
    place(lively_snapshot, C, "epoch-2.pth")
    folder = Path(C.snapshot_dir)
    assert choose_snapshot(C, "2", "exporting") == folder / "epoch-2.pth"
    assert choose_snapshots(C, "last") == [folder / LAST]
    with pytest.raises(UserError, match="-e 1-: names 2 snapshots; exporting takes one, such as -e last or -e best"):
        choose_snapshot(C, "1-", "exporting")


def test_the_best_snapshot_has_the_highest_of_most_scores(C, lively_snapshot, console, capsys, monkeypatch) -> None:
    place(lively_snapshot, C, "epoch-2.pth", "epoch-3.pth")
    folder, path = Path(C.snapshot_dir), Path(C.log_dir) / RESULTS
    with pytest.raises(UserError, match=r"-e best: .*results\.json has no mIoU of the snapshots in .*eval\.py -e 0-$"):
        choose_snapshots(C, "best")
    Evaluator(C, CPU, console=console).run("1-3")
    for options in ({"eval_flip": True}, {"eval_scale_array": (0.5,)}):
        Evaluator(C.updated(**options), CPU, console=console).run("2")
    Evaluator(C, CPU, "2", console=console).run("3")
    entries = sorted(read_results(path), key=lambda entry: (entry["branch"], entry["flip"], entry["scales"] == [0.5]))
    assert [Path(entry["snapshot"]).stem[-1] for entry in entries] == list("123223")

    def best(scores: list[float | None], branch: str | None = None, latest: int = 5) -> str:
        for number, (entry, score) in enumerate(zip(entries, scores, strict=True)):
            entry |= {"miou": score, "finished": f"2026-01-0{2 if number == latest else 1}T00:00:00"}
        path.write_text(json.dumps(entries))
        (found,) = choose_snapshots(C, "best", branch)
        return found.name

    monkeypatch.setattr(terminal, "_noted", set())
    assert best([0.1, 0.3, 0.2, 0.9, 0.9, 0.9]) == "epoch-2.pth", "three scores compare"
    assert "note: -e best: epoch-2.pth, mIoU 30.00 of branch 1, of 3 evaluated snapshots" in capsys.readouterr().err
    assert best([0.4, 0.3, None, 0.1, 0.1, 0.1]) == "epoch-1.pth"
    assert best([0.4, 0.3, 0.2, 0.1, 0.1, 0.1], branch="2") == "epoch-3.pth"
    entries[5]["snapshot"], kept = str(folder / "epoch-3.pth"), entries[:3]
    del entries[:3]  # three scores of one snapshot each, under different conditions
    assert [best([0.1, 0.2, 0.3], latest=number) for number in range(3)] == [
        "epoch-2.pth",
        "epoch-2.pth",
        "epoch-3.pth",
    ]
    entries[:0] = kept
    with pytest.raises(UserError, match=r"has no mIoU of branch both .*-e 0- --branch both$"):
        choose_snapshots(C, "best", "both")
    with pytest.raises(UserError, match="has no boundary mIoU of"):
        choose_snapshots(C.updated(eval_metrics=("boundary_iou",)), "best")
    (folder / "epoch-1.pth").unlink()
    (folder / "epoch-3.pth").unlink()
    assert best([0.9, 0.3, 0.8, 0.9, 0.9, 0.9]) == "epoch-2.pth", "snapshots that are gone do not count"
    with pytest.raises(UserError, match="has no mIoU of branch 2"):
        choose_snapshots(C, "best", "2")
