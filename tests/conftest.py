"""Fixtures of all tests: a clean environment, a tiny data set and its settings, a file that would run code."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest
import torch
from hypothesis import settings

from furnace.methods.settings import all_settings, load_config
from furnace.utils.checking import entries_of
from furnace.utils.config import ENVIRONMENT
from furnace.utils.settings import Settings
from tests.tiny_data import write_voc
from tests.tiny_encoder import TINY
from tests.tiny_run import NARROW, write_lively

REPOSITORY = Path(__file__).parents[1]
TINY_RUN = {
    "image_height": 16,
    "image_width": 20,
    "batch_size": 3,
    "nepochs": 2,
    "niters_per_epoch": 3,
    "num_workers": 0,
    "backbone": TINY,
    "pretrained_model": None,
    "seed": 7,
}

# One thread per process, also in processes that tests start: small tensors gain nothing from more, and tests run in
# parallel.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# The same examples in every run: a failure can be reproduced by everyone.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def plain_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `amp = "auto"` float32 on every machine: tests compare with plain networks to the last digits."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove variables that change settings; make tables so wide that no text that a test looks for is wrapped."""
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def registries() -> Iterator[None]:
    """Restore the registries after a test."""
    before = [(entry.registry, dict(entry.registry.all())) for entry in entries_of(all_settings()).values()]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """A tiny data set in the layout of Pascal VOC."""
    return write_voc(tmp_path)


@pytest.fixture
def make_settings(voc_root: Path, tmp_path: Path) -> Callable[..., Settings]:
    """`make_settings(name=value)`: settings of exp_voc for the tiny data set and a run of a few seconds."""

    def make(**changes) -> Settings:
        return load_config(REPOSITORY / "exp_voc", {"volna": str(tmp_path), **TINY_RUN, **changes})

    return make


@pytest.fixture(scope="session")
def lively_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A snapshot of the tiny run with `NARROW` heads; with its weights every class is predicted for some pixels.

    Tests get hard links to it and must not write into them: all later tests use the same file.
    """
    folder = tmp_path_factory.mktemp("lively")
    C = load_config(REPOSITORY / "exp_voc", {**TINY_RUN, **NARROW, "volna": str(folder)})
    path = write_lively(C, folder / "lively.pth")
    written = crc32(path.read_bytes())
    yield path
    assert crc32(path.read_bytes()) == written, "a test has written into the snapshot that all share"


class Trap:
    """An object that creates a file if it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def trapped_file(tmp_path: Path) -> tuple[Path, Path]:
    """A weights file that creates a marker file if its code runs, and the marker's path, which does not exist yet."""
    path, marker = tmp_path / "trapped.pth", tmp_path / "code_was_run"
    torch.save({"model": {"conv1.weight": torch.zeros(1)}, "extra": Trap(marker)}, path)
    torch.load(path, weights_only=False)["extra"].close()
    assert marker.exists(), "the trap is broken: plain unpickling doesn't spring it"
    marker.unlink()
    return path, marker
