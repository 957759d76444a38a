"""The launcher: restarts, and signals that give processes time to save."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from furnace.engine import launcher
from furnace.engine.launcher import run_processes
from furnace.utils.errors import SIGNAL_BASE, Stopped, UserError

TERMINATED = SIGNAL_BASE + signal.SIGTERM
# Each process writes its events to its own file.
COMMON = """
import os, signal, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
def note(text):
    with open(folder / rank, "a") as file:
        file.write(text + " ")
"""
SAVES = """
def save(signum, _):
    note("asked")
    while not (folder / "saved").exists():
        time.sleep(0.01)
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGHUP, save)
signal.signal(signal.SIGUSR1, lambda *_: note("warned"))
note("runs")
while True:
    time.sleep(0.01)
"""
DEAF = """
signal.signal(signal.SIGTERM, lambda *_: note("asked"))
note("runs")
while True:
    time.sleep(0.01)
"""
FAILS = "sys.exit(3) if rank == '1' else None\n" + DEAF
IS_KILLED = """
note(f"{' '.join(sys.argv[2:])} {os.environ['TORCHELASTIC_RESTART_COUNT']}")
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
if rank == "1" and first:
    while not (folder / "0").exists():  # on a busy machine the other process may start late
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
elif rank == "0" and first:
    signal.pause()
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """`script(code)`: the command that runs `code`. The launcher's timeouts are short."""
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(launcher, "LAST_SECONDS", 0.2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(code: str) -> list[str]:
        (tmp_path / "script.py").write_text(COMMON + code)
        return [str(tmp_path / "script.py"), str(tmp_path)]

    return write


def said(folder: Path) -> list[str]:
    return [(folder / rank).read_text() if (folder / rank).exists() else "" for rank in "01"]


def meanwhile(action: Callable[[], None]) -> Thread:
    thread = Thread(target=action, daemon=True)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def terminate_when_running(folder: Path) -> None:
    wait_until(lambda: said(folder) == ["runs "] * 2)  # by then the launcher has installed its handlers
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: said(folder) == ["runs asked "] * 2)


def test_processes_have_enough_time_to_save(script, tmp_path: Path) -> None:
    def stop() -> None:
        terminate_when_running(tmp_path)
        time.sleep(1)  # five times the timeout for processes after a failure
        (tmp_path / "saved").touch()

    begin = time.monotonic()
    meanwhile(stop)
    assert run_processes(2, script(SAVES), restarts=3) == TERMINATED
    assert said(tmp_path) == ["runs asked "] * 2, "once each, and nothing was started again"
    assert time.monotonic() - begin > 1


def test_sigusr1_is_passed_on_and_sighup_ends_all_processes(script, tmp_path: Path) -> None:
    def warn_and_stop() -> None:
        wait_until(lambda: said(tmp_path) == ["runs "] * 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: said(tmp_path) == ["runs warned "] * 2)
        (tmp_path / "saved").touch()
        os.kill(os.getpid(), signal.SIGHUP)

    meanwhile(warn_and_stop)
    assert run_processes(2, script(SAVES), restarts=3) == SIGNAL_BASE + signal.SIGHUP
    assert said(tmp_path) == ["runs warned asked "] * 2


def test_processes_start_with_sigusr1_ignored(script, tmp_path: Path) -> None:
    ignores = "note(str(signal.getsignal(signal.SIGUSR1)))"
    assert run_processes(1, script(ignores)) == 0
    assert said(tmp_path)[0].strip() == str(signal.SIG_IGN)


@pytest.mark.parametrize(("restarts", "promised"), [(0, False), (3, True)])
def test_a_second_signal_ends_processes_that_do_not_answer(
    script, tmp_path: Path, restarts: int, promised: bool
) -> None:
    def stop_twice() -> None:
        terminate_when_running(tmp_path)
        time.sleep(launcher.ECHO_SECONDS + 0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    meanwhile(stop_twice)
    with pytest.raises(Stopped, match=r"^SIGTERM; not all processes ended by themselves") as stopped:
        run_processes(2, script(DEAF), restarts)
    assert stopped.value.status == TERMINATED
    assert ("-c auto" in str(stopped.value)) == promised, "an evaluation saves nothing to go on from"


def test_an_error_of_one_process_ends_the_others_and_is_the_status(script, tmp_path: Path) -> None:
    assert run_processes(2, script(FAILS), restarts=3) == 3
    assert said(tmp_path)[1] == ""


def test_a_restart_is_told_to_the_processes_as_torchrun_does(script, tmp_path: Path, capfd) -> None:
    assert run_processes(2, [*script(IS_KILLED), "--overwrite"], restarts=1) == 0
    assert said(tmp_path) == ["--overwrite 0 --overwrite 1 "] * 2
    assert capfd.readouterr().err.count("process 1 was ended by SIGKILL; starting again from the last save") == 1


def test_too_many_kills_are_an_error(script) -> None:
    with pytest.raises(UserError, match=r"^process 1 was ended by SIGKILL, after 1 restarts; .*-c auto continues"):
        run_processes(2, script("os.kill(os.getpid(), signal.SIGKILL) if rank == '1' else signal.pause()"), 1)
    with pytest.raises(UserError, match=r"^process 0 was ended by SIGKILL; SIGKILL usually .* lower C.num_workers$"):
        run_processes(1, script("os.kill(os.getpid(), signal.SIGKILL)"))
