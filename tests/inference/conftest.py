"""Fixtures: settings with a snapshot to open, and a console that keeps its output."""

from io import StringIO

import pytest
from rich.console import Console

from furnace.utils.settings import Settings
from tests.tiny_run import NARROW, SIDE, place


@pytest.fixture
def C(make_settings, tmp_path, lively_snapshot) -> Settings:
    C = make_settings(log_dir=str(tmp_path / "log"), eval_crop_size=SIDE, eval_batch_size=2, **NARROW)
    place(lively_snapshot, C)
    return C


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO())
