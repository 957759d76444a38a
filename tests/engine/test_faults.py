"""Real processes, real signals: a run that is stopped or killed, alone and as one of several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from furnace.datasets.loaders import build_train_set
from furnace.datasets.randomness import Purpose
from furnace.datasets.toy import make_toy
from furnace.engine.snapshot_folder import AUTOSAVE, LAST
from furnace.methods.settings import load_config
from furnace.utils.errors import SIGNAL_BASE, USER_ERROR_STATUS
from tests.conftest import REPOSITORY
from tests.torture.victim import same_weights

LAUNCH = "import sys; from furnace.engine.launcher import run_processes; from furnace.utils.errors import run; "
LAUNCH += "run(lambda: run_processes(2, sys.argv[1:], restarts=2))"
HANG_SECONDS = 240


class Command:
    """`train.py` of the toy experiment over a tiny data set, started as a user would."""

    def __init__(self, folder: Path):
        self.folder, self.log_dir = folder, folder / "log"
        make_toy(folder / "DATA" / "toy", 0, {"train": 24, "val": 4}, (3,))

    def settings(self, **settings) -> dict:
        defaults = {
            "volna": str(self.folder), "log_dir": str(self.log_dir), "labeled_ratio": 3, "method": "supervised",
            "nepochs": 2, "niters_per_epoch": 20, "batch_size": 4, "image_height": 32, "image_width": 32,
            "head_channels": 8, "num_workers": 1, "display_iter": 1, "record_info_iter": 1, "autosave_minutes": 1e-9,
        }  # fmt: skip
        return {**defaults, **settings}

    def arguments(self, **settings) -> list[str]:
        pairs = [f"{name}={value}" for name, value in self.settings(**settings).items()]
        return [
            str(REPOSITORY / "exp_toy" / "train.py"),
            "-d",
            "cpu",
            *(part for pair in pairs for part in ("-o", pair)),
        ]

    def start(self, *command: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.output = open(self.folder / "output.txt", "w+", encoding="utf-8")  # noqa: SIM115
        return subprocess.Popen(
            [sys.executable, *command], stdout=self.output, stderr=self.output, env=environment, start_new_session=True
        )

    def said(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def wait_for(self, process: subprocess.Popen, text: str, count: int = 1) -> None:
        end = time.monotonic() + HANG_SECONDS
        while self.said().count(text) < count:
            assert process.poll() is None, self.said()
            assert time.monotonic() < end, f"hangs: {self.said()}"
            time.sleep(0.02)

    def saved_iteration(self) -> int:
        return torch.load(self.log_dir / "snapshot" / AUTOSAVE, weights_only=True)["iteration"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_signals_to_the_whole_group_save_and_tell(command: Command) -> None:
    """As `timeout` and terminals do it: loaders would get the signals, too."""
    process = command.start(*command.arguments(autosave_minutes=0))
    command.wait_for(process, "iteration 2/40")
    os.killpg(process.pid, signal.SIGUSR1)
    command.wait_for(process, f"{AUTOSAVE} at iteration")
    assert 2 <= command.saved_iteration() < 40
    done = command.said().count("iteration")
    command.wait_for(process, "iteration", done + 2)  # it goes on
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(HANG_SECONDS) == SIGNAL_BASE + signal.SIGHUP
    last = command.said().strip().splitlines()[-1]
    assert last.startswith(f"stopped: SIGHUP after iteration {command.saved_iteration()} of 40; saved ")
    assert "Traceback" not in command.said()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The last snapshot of a run of two processes that nothing disturbs."""
    command = Command(tmp_path_factory.mktemp("undisturbed"))
    assert command.start("-c", LAUNCH, *command.arguments(niters_per_epoch=6)).wait(HANG_SECONDS) == 0, command.said()
    return torch.load(command.log_dir / "snapshot" / LAST, weights_only=True)


def by_launcher(command: Command, **settings) -> list[str]:
    return ["-c", LAUNCH, *command.arguments(**settings)]


def test_killed_restarted_stopped_and_continued_two_processes_learn_the_same(
    command: Command, undisturbed: dict
) -> None:
    start = by_launcher(command, niters_per_epoch=6)
    process = command.start(*start)
    command.wait_for(process, "iteration 2/12")
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    command.wait_for(process, "-c auto: continues")
    command.wait_for(process, "iteration 5/12")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(HANG_SECONDS) == SIGNAL_BASE + signal.SIGTERM, command.said()
    assert "process 1 was ended by SIGKILL; starting again from the last save" in command.said()
    assert f"SIGTERM after iteration {command.saved_iteration()} of 12" in command.said()
    assert "Traceback" not in command.said()
    assert command.start(*start, "-c", "auto").wait(HANG_SECONDS) == 0, command.said()
    assert same_weights(torch.load(command.log_dir / "snapshot" / LAST, weights_only=True), undisturbed)


def test_a_process_killed_under_torchrun_begins_again_from_the_last_save(command: Command) -> None:
    """The least there is of it: one process, whose loader is itself. What is learned is compared in the slow one."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "--max-restarts=1"]
    process = command.start(*torchrun, *command.arguments(nepochs=1, niters_per_epoch=8, num_workers=0))
    command.wait_for(process, "iteration 3/8")
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait(HANG_SECONDS) == 0, command.said()
    before, after = command.said().split("-c auto: continues", 1)
    assert "iteration 8/8" in after and "iteration 8/8" not in before
    assert "iteration 1/8" not in after, "it began anew"
    assert torch.load(command.log_dir / "snapshot" / LAST, weights_only=True)["iteration"] == 8


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_save(command: Command, undisturbed: dict) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=2"]
    process = command.start(*torchrun, *command.arguments(niters_per_epoch=6))
    command.wait_for(process, "iteration 3/12")
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait(HANG_SECONDS) == 0, command.said()
    assert "-c auto: continues" in command.said()
    assert same_weights(torch.load(command.log_dir / "snapshot" / LAST, weights_only=True), undisturbed)


def test_a_fault_of_another_process_than_the_first_reaches_the_terminal(command: Command) -> None:
    """The second process reads the second half of each batch: of these images one is damaged."""
    C = load_config(REPOSITORY / "exp_toy", command.settings())
    path = build_train_set(C, unlabeled=False).sample(0, C.batch_size - 1, Purpose.ORDER_LABELED).image
    path.write_bytes(b"damaged")
    status = command.start(*by_launcher(command)).wait(HANG_SECONDS)
    assert status == USER_ERROR_STATUS, command.said()
    assert f"error: {path}: can't be decoded" in command.said()
    assert "Traceback" not in command.said()
