"""Locks of folders: a second process is refused, a killed one does not block, a disk without locks gives a warning."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from furnace.utils import locks
from furnace.utils.errors import UserError
from furnace.utils.locks import locked
from tests.conftest import REPOSITORY

# With a child that inherits open files, as a loader does, and lives a little longer.
HOLD = """
import os, sys, time
from furnace.utils.locks import locked
with locked(sys.argv[1], warn=print):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of the folder `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_folder_is_refused_until_its_holder_is_killed(holder, tmp_path, monkeypatch):
    warnings = []
    with monkeypatch.context() as patch:
        patch.setattr(locks, "WAIT_SECONDS", 0.1)
        named = f"^{tmp_path}: process {holder.pid} on {socket.gethostname()} is training here; .*log_dir"
        with pytest.raises(UserError, match=named), locked(tmp_path, warn=warnings.append):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    for _ in range(2):
        with locked(tmp_path, tmp_path / "." / "new", tmp_path / "new", warn=warnings.append):
            assert (tmp_path / "new" / locks.HOLDER).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not warnings
    assert not list(tmp_path.rglob(locks.HOLDER))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("error")
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, code):
    def refuse(*_) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    warnings, ran = [], []
    with locked(tmp_path, warn=warnings.append):
        ran.append(True)
    (line,) = warnings
    assert line.startswith(f"{tmp_path}: can't be locked (") and ran
    with open(tmp_path / "file", "w") as file:
        assert locks.try_lock(file.fileno())


def test_a_file_is_locked_by_one_at_a_time(tmp_path):
    with open(tmp_path / "file", "w") as one, open(tmp_path / "file", "w") as other:
        assert [locks.try_lock(file.fileno()) for file in (one, other)] == [True, False]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*can.t be written"), locked(tmp_path / "file" / "log", warn=print):
        pass
