"""Files that a run can do without: on a full disk, one warning per file, nothing half-written, no endless waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from furnace.engine.best_effort import BestEffort, RecordFile
from furnace.engine.record import TRAINING_METRICS
from furnace.utils.files import append
from tests.conftest import REPOSITORY
from tests.engine.test_monitor import read_events

# The system enforces this limit on the size of files, so its effect is that of a full disk.
LIMITED = """
import resource, sys
from io import StringIO
from pathlib import Path
import torch
from rich.console import Console
from furnace.engine.monitor import Monitor, logger, open_log

console = Console(file=StringIO(), width=1000)
folder = Path(sys.argv[1])
open_log(folder, "log", console)
monitor = Monitor(folder, total=600, start=0, niters_per_epoch=300, record_iter=1, display_iter=1, console=console)
with monitor:
    for iteration in range(600):
        limit = 2000 if iteration < 500 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        monitor.record(iteration, 0.1, {"loss": torch.tensor(float(iteration))})
        if iteration == 499:
            monitor.writer.flush()
print(console.file.getvalue())
"""


def test_a_monitor_survives_a_full_disk_and_writes_again_when_there_is_space(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    warned = [line.split(": can't be written")[0] for line in done.stdout.splitlines() if "can't be written (" in line]
    told = sorted(Path(path).name.split(".")[0].split("_")[0] for path in warned)
    assert told == ["events", "figures", "log"], "once each"
    iterations = [json.loads(line)["iteration"] for line in (tmp_path / TRAINING_METRICS).read_text().splitlines()]
    assert 5 < iterations.index(500) < 400, "some before the limit, then none"
    assert iterations[-100:] == list(range(500, 600)), "and all when there was room again"
    assert read_events(tmp_path)[599, "train/loss"] == 599
    assert "iteration 600/600" in (tmp_path / "log_last.log").read_text()


def test_records_of_tensorboard_are_dropped_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    file = RecordFile(tmp_path / "gone" / "events", BestEffort(said.append))
    for record in (b"one", b"two"):
        file.write(record[:1])
        file.write(record[1:])
        file.flush()
    (tmp_path / "gone").mkdir()
    file.write(b"three")
    file.close()
    assert file.path.read_bytes() == b"three"
    (line,) = said
    assert line.startswith(f"{file.path}: can't be written (No such file or directory); the run continues")


def test_only_disk_errors_are_tolerated() -> None:
    said: list[str] = []
    with pytest.raises(KeyError), BestEffort(said.append)(Path("file")):
        raise KeyError
    assert said == []


def test_appending_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append(path, b"one")
    code = (
        "import resource, sys; from pathlib import Path; from furnace.utils.files import append\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (5, {2**20}))\n"
        "append(Path(sys.argv[1]), b'three')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert "OSError: [Errno 28]" in done.stderr
    assert path.read_bytes() == b"one"
