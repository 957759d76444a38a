"""Progress bars in a pipe and in a pseudo terminal, with log lines beside them."""

import os
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from furnace.utils import progress
from furnace.utils.progress import ProgressBar, parallel
from tests.conftest import REPOSITORY

SCRIPT = """
import logging, sys
from pathlib import Path
import torch
from furnace.engine.monitor import Monitor, open_log
from furnace.utils.terminal import open_console
console = open_console()
folder = Path(sys.argv[1])
open_log(folder, "log", console)
with Monitor(folder, total=6, start=2, niters_per_epoch=3, record_iter=2, display_iter=2, console=console) as monitor:
    for iteration in range(2, 6):
        monitor.record(iteration, 0.1, {"loss": torch.tensor(1.5)})
        monitor.bar.refresh()
"""
LAST = r"epoch 1: 100%.*6/6 \[\d\d:\d\d<00:00, .*it.*, loss 1.500 lr 1.00e-01\]"


@pytest.fixture
def command(tmp_path: Path) -> dict:
    return {"args": [sys.executable, "-c", SCRIPT, str(tmp_path)], "cwd": REPOSITORY}


def test_a_pipe_gets_plain_lines(command):
    done = subprocess.run(**command, capture_output=True, check=True)
    assert not set(done.stdout + done.stderr) & ({*range(32), 127} - {ord("\n")})
    lines = done.stdout.decode().splitlines()
    assert sum("iteration" in line for line in lines) == 2
    assert re.fullmatch(LAST, lines[-1])


@pytest.mark.parametrize("columns", [120, 0], ids=["sized", "of unknown size"])
def test_log_lines_do_not_tear_the_bar_of_a_terminal(command, columns):
    ours, theirs = os.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(**command, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"})
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 1 << 16):
            output += part
    except OSError:  # the other end has been closed
        pass
    assert process.wait() == 0, output
    lines = [line.rstrip("\r") for line in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", output.decode()).split("\n")]
    shown = [line.split("\r")[-1].rstrip() for line in lines]  # the visible part of each line
    assert sum("iteration" in line for line in shown) == 2
    assert not [line for line in shown if "iteration" in line and "it/s" in line]
    last = next(line for line in reversed(shown) if line)
    assert re.fullmatch(LAST, last) if columns else re.fullmatch(r"epoch 1: 100%.*6/6 .*", last), shown
    assert any("█" in line for line in lines)
    assert all(len(part) <= (columns or 80) for line in lines for part in line.split("\r"))


def test_a_long_job_prints_a_line_at_intervals(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with ProgressBar("files", 100) as bar:
        for _ in range(100):
            now[0] += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"files: (\d+)%", line)[1] for line in lines] == ["30", "60", "90", "100"]


def test_work_in_threads_keeps_its_order(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1000)
    assert parallel(lambda value: value * 2, range(50), "doubling") == list(range(0, 100, 2))
    assert capsys.readouterr().err.startswith("doubling: 100% 50/50")
    assert parallel(str, [1]) == ["1"] and parallel(str, [], "none") == []
    assert capsys.readouterr().err == ""
