"""A short torture: every injected fault is survived with its expected outcome."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from tempfile import TemporaryDirectory

from tests.conftest import REPOSITORY
from tests.torture.__main__ import RUNS

KILLS = 8
SHORT = {  # outcomes that show that the run had not finished before the fault
    "SIGINT": "status 130, saved",
    "latest save truncated": "named, an earlier one taken",
    "loss not finite": "status 2, iteration, files and loss named, state before it saved",
    "disk full": "size and space named, earlier saves kept",
}


def torture(names: Iterable[str], rounds: int) -> dict[str, str]:
    """Inject each fault `rounds` times; returns the outcomes by fault."""
    chosen = [part for name in names for part in ("--only", name)]
    with TemporaryDirectory() as folder:  # its name is short enough for the sockets of killed loaders
        done = subprocess.run(
            [sys.executable, "-m", "tests.torture", "--rounds", str(rounds), *chosen],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "400", "TMPDIR": folder, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        left = [name for name in os.listdir(folder) if not name.startswith("torchinductor")]  # PyTorch's cache
    assert done.returncode == 0, done.stdout + done.stderr
    assert not left, "its folder is left behind"
    return dict(re.findall(r"│ (\S.*?) +│ +\d+ +│ +(.*?) +│", done.stdout))


def test_a_short_torture_is_survived() -> None:
    outcomes = torture(SHORT, 1)
    assert "bit for bit" in outcomes[RUNS]
    for name, expected in SHORT.items():
        assert f"1 x {expected}" in outcomes[name]


def test_kills_at_any_moment_lose_nothing() -> None:
    at_any_moment, saving = "kill -9 at any moment", "kill -9 while saving"
    outcomes = torture([at_any_moment, saving], KILLS // 2)
    assert "bit for bit" in outcomes[RUNS]
    kills = outcomes[at_any_moment] + outcomes[saving]
    assert "killed, had continued" in kills, "or no save was ever whole"
    assert sum(map(int, re.findall(r"(\d+) x killed", kills))) == KILLS
