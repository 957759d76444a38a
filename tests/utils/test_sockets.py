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
