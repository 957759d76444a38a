"""The torture itself, shortly: every fault it injects is survived, and it notices where one is not."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from io import StringIO
from tempfile import TemporaryDirectory

import pytest
import torch
from rich.console import Console

from tests.conftest import REPOSITORY
from tests.torture.__main__ import RUNS, Torture
from tests.torture.faults import FAULTS
from tests.torture.victim import Ending, Failed, same_weights

KILLS = 8
SHORT = {  # and what becomes of each: the run has not ended before it came
    "SIGINT": "status 130, saved",
    "latest save truncated": "named, an earlier one taken",
    "loss not finite": "status 2, iteration, files and loss named, state before it saved",
    "disk full": "size and space named, earlier saves kept",
}


def torture(names: Iterable[str], rounds: int) -> dict[str, str]:
    """Inject each fault so many times; returns the outcomes of each."""
    chosen = [part for name in names for part in ("--only", name)]
    with TemporaryDirectory() as folder:  # its name is so short that the sockets of killed loaders lie in it, too
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
    assert "killed, had continued" in outcomes[saving], "or no save was ever whole"
    killed = [int(n) for name in (at_any_moment, saving) for n in re.findall(r"(\d+) x killed", outcomes[name])]
    assert sum(killed) == KILLS


class Corpse:
    """A victim that survives nothing."""

    exitcode = 1

    def __init__(self):
        self.process, self.resets = self, 0

    def kill(self) -> None:
        pass

    def join(self) -> None:
        pass

    def reset(self) -> None:
        self.resets += 1

    def result(self) -> dict:
        return {}


def test_what_is_not_survived_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fatal(victim, rng: random.Random) -> str:
        raise Failed("it died")

    monkeypatch.setitem(FAULTS, "fatal", fatal)
    victim = Corpse()
    torture = Torture(victim, 0, ["fatal"], Console(quiet=True))
    torture.inject("fatal")
    assert torture.failures == ["fatal: it died"]
    assert victim.resets == 1
    console = Console(width=200, file=StringIO())
    console.print(torture.table())
    assert "1 x NOT SURVIVED" in console.file.getvalue()


@pytest.mark.parametrize(
    "ending", [Ending(1, "saved"), Ending(0, "nothing"), Ending(0, "saved\nTraceback (most recent call last):")]
)
def test_another_ending_than_expected_is_a_failure(ending: Ending) -> None:
    Ending(0, "all saved").expect(0, 2, say="saved")
    with pytest.raises(Failed):
        ending.expect(0, 2, say="saved")


def test_other_weights_are_noticed() -> None:
    one = {"model": {"w": torch.ones(3)}, "optimizer_1": {"state": {0: torch.zeros(2)}}, "epoch": 1, "iteration": 4}
    same = {**one, "model": {"w": torch.ones(3)}}
    assert same_weights(one, same)
    assert not same_weights(one, {**one, "model": {"w": torch.tensor([1, 1, 1 + 1e-6])}})
    assert not same_weights(one, {**one, "optimizer_1": {"state": {0: torch.ones(2)}}})
    assert not same_weights(one, {**one, "iteration": 5})


def test_a_fault_that_came_too_late_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    victim, seen = Corpse(), []

    def late(victim: Corpse, rng: random.Random) -> str:
        seen.append(victim)
        victim.exitcode = 0 if len(seen) < 3 else 1
        return "status 0" if len(seen) < 3 else "killed"

    monkeypatch.setitem(FAULTS, "late", late)
    torture = Torture(victim, 0, ["late"], Console(quiet=True))
    torture.reference = victim.result()
    torture.inject("late")
    assert torture.outcomes["late"] == {"status 0": 2, "killed": 1}
    assert torture.outcomes[RUNS] == {"bit for bit": 2}
