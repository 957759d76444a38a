"""Prediction and training in several processes: none ends the others, and all continue from the same state."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from furnace.datasets.batch import TrainBatch
from furnace.engine.distributed import CPU
from furnace.engine.learner import StepOutput
from furnace.engine.trainer import Trainer
from furnace.inference.predictor import Outputs, Predictor
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.engine.processes import in_processes
from tests.tiny_data import write_image
from tests.tiny_run import NARROW, place

SIDE, WAIT = 40, 3  # window side in pixels; seconds that a collective may wait


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path, lively_snapshot: Path) -> Settings:
    C = make_settings(log_dir=str(tmp_path / "log"), eval_crop_size=SIDE, eval_batch_size=2, **NARROW)
    place(lively_snapshot, C)
    return C


def predict_share(rank: int, C: Settings, folder: Path) -> None:
    """Run one process of `predict.py -d 0,1`; the video of one takes longer than a collective may wait."""
    predictor = Predictor(C, CPU, "1", Outputs(folder / "out", overlay=False), Console(quiet=True))

    def late(*_) -> None:
        time.sleep(2 * WAIT)
        predictor.skipped.append("late")
        predictor.faulty.append("cut short")

    predictor.predict_video = late
    with (folder / f"told-{rank}.txt").open("w") as told:
        predictor.console = Console(file=told, width=300)
        predictor.run("last", [str(folder / "in")])
    (folder / f"status-{rank}.txt").write_text(str(predictor.status))


def write_video(path: Path) -> None:
    """Write a video of one frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (48, SIDE))
    writer.write(np.zeros((SIDE, 48, 3), dtype=np.uint8))
    writer.release()


def test_processes_wait_for_one_with_a_long_video(C: Settings, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", np.zeros((20, 20, 3), dtype=np.uint8))
    write_video(tmp_path / "in/b.avi")  # whose prediction is made to take long
    write_image(tmp_path / "in/c.png", np.zeros((20, 20, 3), dtype=np.uint8))
    in_processes(2, predict_share, C, tmp_path, wait=WAIT)
    told = (tmp_path / "told-0.txt").read_text()
    assert "1 predicted by epoch-last.pth" in told
    assert "1 could not be read; 1 with missing or damaged frames" in told
    assert (tmp_path / "status-0.txt").read_text() == "1", "that of the command"


def test_frames_of_a_video_do_not_replace_the_results_of_pictures(C: Settings, tmp_path: Path) -> None:
    """The folder contains ride.avi and, in ride/, frames that were extracted from it."""
    picture = write_image(tmp_path / "in/ride/000001.png", np.zeros((23, 31, 3), dtype=np.uint8))
    write_video(tmp_path / "in/ride.avi")
    predictor = Predictor(C, CPU, "1", Outputs(tmp_path / "out", overlay=False), Console(quiet=True))
    with pytest.raises(UserError, match=f"{picture} and the frames of .*ride.avi: .* same name"):
        predictor.run("last", [str(tmp_path / "in")])
    assert not (tmp_path / "out").exists()
    predictor.run("last", [str(tmp_path / "in/ride")])
    assert [path.name for path in (tmp_path / "out/label").iterdir()] == ["000001.png"]


def whole_and_cut(rank: int, C: Settings, folder: Path) -> None:
    """Train one run without interruption and one that is cut after four of six iterations and continued."""

    def trainer(name: str, resume: str | None = None) -> Trainer:
        places = {"log_dir": str(folder / name), "snapshot_dir": str(folder / name / "snapshot")}
        return Trainer(C.updated(**places), CPU, resume, console=Console(quiet=True))

    whole = trainer("whole")
    whole.fit()
    cut = trainer("cut")
    step = cut.learner.step

    def stops(batch: TrainBatch, iteration: int) -> StepOutput:
        if iteration == 4:
            raise KeyError("cut")
        return step(batch, iteration)

    cut.learner.step = stops
    with pytest.raises(KeyError):
        cut.fit()
    torch.distributed.barrier()
    again = trainer("cut", "auto")
    assert again.start_iteration == 4
    again.fit()
    torch.save([run.network.state_dict() for run in (whole, again)], folder / f"states-{rank}.pth")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "mean_teacher", "ema_decay": 0.5, "lr": 0.05, "batch_size": 4},
        {"method": "cpcl", "strong": True, "accumulate": 2, "batch_size": 8},
        pytest.param({"method": "cps", "amp": "bf16", "batch_size": 4}, marks=pytest.mark.slow),
        pytest.param({"method": "supervised", "sync_bn": False, "batch_size": 4}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: changes["method"],
)
def test_several_processes_continue_bit_for_bit_and_have_the_same_networks(make_settings, tmp_path, changes) -> None:
    C = make_settings(**changes, **NARROW)
    in_processes(2, whole_and_cut, C, tmp_path)
    states = [torch.load(tmp_path / f"states-{rank}.pth") for rank in range(2)]
    whole = states[0][0]
    for other in (states[0][1], *states[1]):
        wrong = [name for name, value in whole.items() if not torch.equal(value, other[name])]
        assert not wrong, f"{len(wrong)} of {len(whole)} tensors differ, such as {wrong[0]}"
