"""Loader processes with a TMPDIR whose name is too long for the names of sockets."""

import os
import subprocess
import sys

import pytest

from furnace.utils import sockets
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY

LOAD = """
import tempfile, torch
from torch.utils.data import DataLoader
from furnace.datasets.loaders import worker_settings
loader = DataLoader([torch.tensor(value) for value in range(4)], batch_size=None, **worker_settings(2))
print([int(value) for value in loader], tempfile.gettempdir())
"""


@pytest.mark.parametrize("name", ["short", "t" * 60 + "/" + "ü" * 30], ids=["short", "long"])
def test_loaders_run_and_other_temporary_files_stay_in_tmpdir(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"[0, 1, 2, 3] {folder}\n", done.stderr


def test_without_a_short_writable_folder_the_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sockets.tempfile, "tempdir", "/" + 70 * "t")
    monkeypatch.setattr(sockets, "SHORT_FOLDERS", (str(tmp_path / "nowhere"),))
    with pytest.raises(UserError, match=r"^TMPDIR = /ttt.*num_workers=0"):
        sockets.shorten_sockets()


# A process that hands over a file, and a peer that goes away during the greeting.
LOSING = """
import os, socket, sys
from multiprocessing import resource_sharer
from furnace.utils.sockets import ignore_lost_peers

told = []
sys.excepthook = lambda kind, error, trace: told.append(kind)
if sys.argv[1] == "ignored":
    ignore_lost_peers()
file = resource_sharer.DupFd(os.open(os.devnull, os.O_RDONLY))
for _ in range(3):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(file._id[0])
os.close(file.detach())  # the last peer stays: the others have been served
sys.excepthook(ValueError, ValueError(), None)
print(len(told), told[-1].__name__)
"""


@pytest.mark.parametrize(("how", "said"), [("shown", "4 ValueError"), ("ignored", "1 ValueError")])
def test_only_a_lost_peer_is_ignored(how: str, said: str):
    done = subprocess.run([sys.executable, "-c", LOSING, how], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == said, done.stderr
