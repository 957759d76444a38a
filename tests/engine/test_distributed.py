"""The same result from 1, 2 and 4 processes.

BatchNorm can't be synchronised over gloo, so the training tests use networks with GroupNorm; everything else
(agreement counts, OHEM's selection, normalisers and gradients) is as in a real run.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from furnace import cli
from furnace.datasets.reading import read_label
from furnace.engine import distributed
from furnace.engine.distributed import CPU
from furnace.engine.snapshots import Snapshot, save_snapshot
from furnace.inference.evaluator import Evaluator
from furnace.methods.build import build_network
from furnace.utils.errors import Stopped, UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY
from tests.engine.processes import evaluate_share, in_processes, report_skipped, supervised_gradients, train_steps
from tests.tiny_data import write_palette_label


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[list[dict], dict]]:
    folder = tmp_path_factory.mktemp("steps")
    for processes in (1, 2, 4):
        in_processes(processes, train_steps, processes, folder)
    return {processes: torch.load(folder / f"{processes}.pth") for processes in (1, 2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
def test_losses_do_not_depend_on_the_number_of_processes(histories: dict, processes: int):
    for alone, shared in zip(histories[1][0], histories[processes][0], strict=True):
        assert shared == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("processes", [2, 4])
def test_weights_do_not_depend_on_the_number_of_processes(histories: dict, processes: int):
    for name, weight in histories[1][1].items():
        assert torch.allclose(histories[processes][1][name], weight, rtol=1e-8, atol=1e-10), name


def test_losses_change_over_the_steps(histories: dict):
    assert len({step["loss"] for step in histories[1][0]}) == len(histories[1][0])


def test_evaluation_counts_every_image_once(make_settings: Callable[..., Settings], voc_root: Path, tmp_path: Path):
    label = voc_root / "val" / "label" / "2009_000001.png"
    write_palette_label(label, np.full_like(read_label(label, 21), IGNORE_INDEX))
    C = make_settings(head_channels=8, eval_crop_size=32, amp="off")  # results in bfloat16 depend on the batch size
    network = build_network(C)
    snapshot = tmp_path / "epoch-0.pth"
    save_snapshot(snapshot, Snapshot(network.state_dict(), [], 0, 0, C.model_dump()))
    (alone,) = Evaluator(C, CPU).run(str(snapshot))
    in_processes(2, evaluate_share, C, str(snapshot), tmp_path)
    confusion, per_image = torch.load(tmp_path / "result.pth")
    assert torch.equal(confusion, alone.values["confusion"])
    torch.testing.assert_close(per_image, alone.per_image, rtol=0, atol=0, equal_nan=True)
    assert per_image.isnan().tolist() == [False, True, False], "an image that says nothing stays one"


def test_images_replaced_in_any_process_are_logged(tmp_path: Path):
    in_processes(2, report_skipped, tmp_path)
    last = (tmp_path / "log_last.log").read_text().split("3 images could not be read and were replaced by others:\n")[1]
    assert {line.strip() for line in last.splitlines()} == {f"{n}.png: damaged" for n in ("own-0", "own-1", "shared")}


@pytest.mark.parametrize(("backend", "expected"), [("nccl", ["abort"]), ("gloo", ["destroy"])])
def test_after_an_error_nobody_waits_for_the_others(monkeypatch: pytest.MonkeyPatch, backend: str, expected: list[str]):
    done = []
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: backend)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: done.append("destroy"))
    monkeypatch.setattr(distributed.dist.distributed_c10d, "_abort_process_group", lambda: done.append("abort"))
    monkeypatch.setattr(cli.engine, "start", lambda device: None)
    args = cli.experiment_parser("", "").parse_args(["-d", "cpu"])
    with pytest.raises(UserError, match="mine alone"), cli.prepared(REPOSITORY / "exp_toy", args):
        raise UserError("mine alone")
    assert done == expected
    done.clear()
    with pytest.raises(Stopped), cli.prepared(REPOSITORY / "exp_toy", args):
        raise Stopped("all of us", 130)
    with cli.prepared(REPOSITORY / "exp_toy", args):
        pass
    assert done == ["destroy", "destroy"]


@pytest.mark.parametrize("number", [0, 1])
def test_all_processes_get_the_result_or_error_of_the_first(monkeypatch: pytest.MonkeyPatch, number: int):
    sent, made = [], []

    def broadcast(objects: list, source: int) -> None:
        if number == source:
            sent[:] = objects
        else:
            objects[:] = sent

    def make():
        made.append(number)
        return "found"

    def fail():
        raise UserError("not there")

    monkeypatch.setattr(distributed, "rank", lambda: number)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", broadcast)
    sent[:] = ["found", None]
    assert distributed.from_first(make) == "found" and made == [0] * (number == 0)
    sent[:] = [None, UserError("not there")]
    with pytest.raises(UserError, match="not there"):
        distributed.from_first(fail)
    assert str(sent[1]) == "not there"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_in_several_processes_give_the_gradients_of_one(accumulate: int, tmp_path: Path) -> None:
    in_processes(2, supervised_gradients, accumulate, tmp_path)
    torch.set_num_threads(1)
    supervised_gradients(0, 2 * accumulate, tmp_path, alone=True)
    apart, alone = (torch.load(tmp_path / f"{name}.pth") for name in ("apart", "alone"))
    for one, other in zip(apart, alone, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)
