"""Several machines, simulated on one host by two torchrun, or by two processes started as Slurm does."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from furnace.engine.snapshot_folder import AUTOSAVE, LAST
from furnace.utils.errors import SIGNAL_BASE
from furnace.utils.labels import IGNORE_INDEX
from tests.engine.commands import HANG_SECONDS, Command, children
from tests.engine.processes import free_port
from tests.tiny_data import write_palette_label

pytestmark = pytest.mark.slow
SOON_SECONDS = 120  # for a run to end or restart after it lost a process
# At this scale crops have no padding, so no pixel is ignored: see `label_all`.
SETTINGS = {"niters_per_epoch": 6, "num_workers": 1, "train_scale_array": "1.5", "lr": 1e-4}
TERMINATED = SIGNAL_BASE + signal.SIGTERM


def label_all(command: Command) -> Command:
    """Label the ignored pixels: parts have one mean loss each, processes share one; they agree without such pixels."""
    for path in (command.folder / "DATA" / "toy" / "train" / "label").iterdir():
        label = np.asarray(Image.open(path))
        write_palette_label(path, np.where(label == IGNORE_INDEX, 0, label).astype(np.uint8))
    return command


class Machines:
    """Two machines with the same data; each has its own folders for output and snapshots."""

    def __init__(self, folder: Path):
        self.commands = [label_all(Command(folder / name)) for name in ("first", "second")]
        self.first, self.second = self.commands

    def torchrun(self, *more: str, restarts: int = 0) -> list[subprocess.Popen]:
        words = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--max-restarts={restarts}"]
        words += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
        words += ["--rdzv-conf=join_timeout=60", "--local-addr=127.0.0.1"]
        return [command.start(*words, *command.arguments(**SETTINGS), *more) for command in self.commands]

    def slurm(self, *more: str) -> list[subprocess.Popen]:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        return [
            command.start(*command.arguments(**SETTINGS), *more, **common, RANK=str(number))
            for number, command in enumerate(self.commands)
        ]

    def said(self) -> str:
        return "".join(command.said() for command in self.commands)

    def wait_for_training(self, process: subprocess.Popen) -> None:
        while "iteration 3/12" not in self.said():  # printed by the process that became the first
            assert process.poll() is None, self.said()
            time.sleep(0.05)


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def losses(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "figures.jsonl").read_text().splitlines()
    own = {"step_seconds", "data_seconds", "memory_gib", "run"}
    return [{name: value for name, value in json.loads(line).items() if name not in own} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run: one process with two parts, as BatchNorm sees them in two processes."""
    command = label_all(Command(tmp_path_factory.mktemp("undisturbed")))
    assert command.start(*command.arguments(**SETTINGS, accumulate=2)).wait(HANG_SECONDS) == 0, command.said()
    return command.log_dir


def test_two_machines_have_the_losses_of_one_process_and_one_folder(machines: Machines, undisturbed: Path) -> None:
    statuses = [process.wait(HANG_SECONDS) for process in machines.torchrun()]
    assert statuses == [0, 0], machines.said()
    (written,) = [command.log_dir for command in machines.commands if command.log_dir.exists()]
    for shared, alone in zip(losses(written), losses(undisturbed), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)


def test_a_run_ended_by_slurm_continues_if_only_the_first_machine_sees_its_saves(
    machines: Machines, undisturbed: Path
) -> None:
    processes = machines.slurm()
    machines.wait_for_training(processes[0])
    for process in processes:
        process.send_signal(signal.SIGUSR1)
    machines.first.wait_for(processes[0], f"saved {machines.first.log_dir}/snapshot/{AUTOSAVE}")
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(SOON_SECONDS) for process in processes] == [TERMINATED] * 2, machines.said()
    assert not machines.second.log_dir.exists()
    assert [process.wait(HANG_SECONDS) for process in machines.slurm("-c", "auto")] == [0, 0], machines.said()
    assert "-c auto: continues" in machines.first.said() and "Traceback" not in machines.said()
    for shared, alone in zip(losses(machines.first.log_dir), losses(undisturbed), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_process_that_is_killed_ends_or_restarts_all(machines: Machines, restarts: int) -> None:
    agents = machines.torchrun(restarts=restarts)
    machines.wait_for_training(agents[1])
    os.kill(children(agents[1].pid)[-1], signal.SIGKILL)
    statuses = [agent.wait(SOON_SECONDS + HANG_SECONDS * restarts) for agent in agents]
    assert statuses == [1 - restarts] * 2, machines.said()
    if restarts:
        assert "-c auto: continues" in machines.said()
    else:
        # The launcher that loses the other one may ask its process to stop before that notices the loss.
        ends = ("another process of this run has ended", "-c auto continues from")
        assert any(end in machines.first.said() for end in ends), machines.said()


def test_a_refused_run_that_torchrun_starts_again_continues_no_other(machines: Machines) -> None:
    assert machines.first.start(*machines.first.arguments(**SETTINGS)).wait(HANG_SECONDS) == 0, machines.first.said()
    saves = sorted((machines.first.log_dir / "snapshot").glob("*.pth"))
    before = [(path.name, path.stat().st_mtime_ns) for path in saves]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    again = machines.first.start(*words, *machines.first.arguments(**SETTINGS | {"lr": 0.5}))
    assert again.wait(HANG_SECONDS) == 1, machines.first.said()
    assert (
        machines.first.said().count("snapshots of a run, the latest") >= 2
        and "-c auto: continues" not in machines.first.said()
    )
    assert [(path.name, path.stat().st_mtime_ns) for path in saves] == before


def test_a_killed_launcher_ends_all_and_the_run_can_continue(machines: Machines, undisturbed: Path) -> None:
    agents = machines.torchrun()
    machines.wait_for_training(agents[1])
    agents[1].kill()
    assert agents[0].wait(SOON_SECONDS) == 1
    assert machines.said().count("the launcher of this process has ended") == 1
    assert "stopped: SIGTERM after iteration" in machines.said()
    (written,) = [command.log_dir for command in machines.commands if command.log_dir.exists()]
    # Only the machine that was the first has the saves; the next run may choose the other one as the first.
    for command in machines.commands:
        command.log_dir = written
    assert [agent.wait(HANG_SECONDS) for agent in machines.torchrun("-c", "auto")] == [0, 0], machines.said()
    for shared, alone in zip(losses(written), losses(undisturbed), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)
    assert torch.load(written / "snapshot" / LAST, weights_only=True)["iteration"] == 12
