"""Stop and kill runs of one or several processes, with real processes and signals."""

import os
import signal
from pathlib import Path

import pytest
import torch

from furnace.datasets.loaders import build_train_set
from furnace.datasets.randomness import Purpose
from furnace.engine.snapshot_folder import AUTOSAVE, LAST
from furnace.methods.settings import load_config
from furnace.utils.errors import SIGNAL_BASE, USER_ERROR_STATUS
from tests.conftest import REPOSITORY
from tests.engine.commands import HANG_SECONDS, Command, children
from tests.torture.victim import same_weights

LAUNCH = "import sys; from furnace.engine.launcher import run_processes; from furnace.utils.errors import run; "
LAUNCH += "run(lambda: run_processes(2, sys.argv[1:], restarts=2))"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_signals_to_the_whole_group_save_and_report(command: Command) -> None:
    """`timeout` and terminals send signals to the group, so that loaders get them, too."""
    process = command.start(*command.arguments(autosave_minutes=0))
    command.wait_for(process, "iteration 2/40")
    os.killpg(process.pid, signal.SIGUSR1)
    command.wait_for(process, f"{AUTOSAVE} at iteration")
    assert 2 <= command.saved_iteration() < 40
    done = command.said().count("iteration")
    command.wait_for(process, "iteration", done + 2)  # the run continues
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(HANG_SECONDS) == SIGNAL_BASE + signal.SIGHUP
    last = command.said().strip().splitlines()[-1]
    assert last.startswith(f"stopped: SIGHUP after iteration {command.saved_iteration()} of 40; saved ")
    assert "Traceback" not in command.said()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The last snapshot of an undisturbed run of two processes."""
    command = Command(tmp_path_factory.mktemp("undisturbed"))
    assert command.start("-c", LAUNCH, *command.arguments(niters_per_epoch=6)).wait(HANG_SECONDS) == 0, command.said()
    return torch.load(command.log_dir / "snapshot" / LAST, weights_only=True)


def by_launcher(command: Command, **settings) -> list[str]:
    return ["-c", LAUNCH, *command.arguments(**settings)]


def test_two_processes_learn_the_same_after_kill_restart_stop_and_continuation(
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
    """The minimal case: one process that loads its own images. A slow test below compares the weights."""
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


def test_an_error_in_the_second_process_is_printed(command: Command) -> None:
    """The second process reads the second half of each batch, which contains a damaged image."""
    C = load_config(REPOSITORY / "exp_toy", command.settings())
    path = build_train_set(C, unlabeled=False).sample(0, C.batch_size - 1, Purpose.ORDER_LABELED).image
    path.write_bytes(b"damaged")
    status = command.start(*by_launcher(command)).wait(HANG_SECONDS)
    assert status == USER_ERROR_STATUS, command.said()
    assert f"error: {path}: can't be decoded" in command.said()
    assert "Traceback" not in command.said()
