"""The torture itself, shortly: every fault it injects is survived, and it notices where one is not."""

import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from furnace.tools.torture import RUNS, Torture, main
from furnace.tools.torture_faults import FAULTS
from furnace.tools.torture_victim import Ending, Failed, same_weights
from tests.conftest import REPOSITORY

SHORT = {  # and what becomes of each: the run has not ended before it came
    "SIGINT": "status 130, saved",
    "latest save truncated": "named, an earlier one taken",
    "a pickle with code planted": "named, an earlier one taken",
    "loss not finite": "status 2, iteration, files and loss named, state before it saved",
    "disk full": "size and space named, earlier saves kept",
}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Of a folder whose name leaves room for those of sockets, which end at 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_short_torture_is_survived(short_path: Path) -> None:
    chosen = [part for name in SHORT for part in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "furnace.tools.torture", "--rounds", "1", *chosen],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TMPDIR": str(short_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert RUNS in done.stdout
    assert "bit for bit" in done.stdout
    for name in SHORT:
        (row,) = re.findall(rf"{name} +│ +\d+ +│ +(.*?) +│", done.stdout)
        assert f"1 x {SHORT[name]}" in row, name
    left = [
        path.name for path in short_path.iterdir() if not path.name.startswith("torchinductor")
    ]  # PyTorch's own cache
    assert not left, "its folder is left behind"


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
    console = Console(width=200, record=True, quiet=True)
    console.quiet, console.file = False, open("/dev/null", "w")  # noqa: SIM115
    console.print(torture.table())
    assert "1 x NOT SURVIVED" in console.export_text()


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


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--only", "flood"])
    assert end.value.code == 2
    assert "invalid choice: 'flood'" in capsys.readouterr().err


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
