"""Weights & Biases: offline it records the same as TensorBoard; a stand-in for the package raises errors."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.traces import STRIPS
from furnace.engine.tracking import WandbWriter
from furnace.engine.trainer import Trainer
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.engine.test_monitor import make_monitor, read_events
from tests.tiny_run import NARROW

PROJECT = "semi-supervised"
BLOCK, BLOCK_HEADER, FILE_HEADER = 32768, 7, 7


@pytest.fixture
def settings(make_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    def make(**changes) -> Settings:
        places = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        return make_settings(**{**NARROW, "wandb": PROJECT, **places, **changes})

    return make


def records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, in which wandb stores a run: parts in blocks of 32 KiB."""
    data, at, whole = path.read_bytes(), FILE_HEADER, b""
    while at + BLOCK_HEADER <= len(data):
        if BLOCK - at % BLOCK < BLOCK_HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        at += BLOCK_HEADER
        whole += data[at : at + length]
        at += length
        if kind in (1, 4):  # a record in one part, or the last part
            yield whole
            whole = b""


def test_offline_it_records_the_same_as_tensorboard(settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    C = settings(diagnose=True, image_iter=3, record_info_iter=1, nepochs=1)
    Trainer(C, CPU, console=Console(quiet=True)).fit()
    (path,) = (tmp_path / "log" / "wandb").glob("offline-run-*/*.wandb")
    found, run = {}, None
    for record in map(Record.FromString, records(path)):
        run = record.run if record.HasField("run") else run
        row: dict[str, Any] = {}
        for item in record.history.item:
            tag, *parts = [item.key] if item.key else item.nested_key
            value = json.loads(item.value_json)
            row[tag] = {**row.get(tag, {}), parts[0]: value} if parts else value
        found |= {(row["iteration"], tag): value for tag, value in row.items() if "iteration" in row}
    assert (run.project, run.run_group) == (PROJECT, "exp_voc")
    assert run.run_id == json.loads((Path(C.snapshot_dir) / "run.json").read_text())["run"]
    assert {item.key for item in run.config.update} >= {"lr", "method", "wandb"}
    events = read_events(tmp_path / "log")
    assert len(events) > 50 and events.keys() <= found.keys()
    for place, value in events.items():
        if isinstance(found[place], dict):  # a picture or a histogram, which TensorBoard stores elsewhere
            assert value == 0
        else:
            assert found[place] == pytest.approx(value, rel=1e-6, nan_ok=True)
    assert found[2, "confidence/branch_1"]["_type"] == "histogram"
    picture = path.parent / "files" / found[2, "pseudo/strip"]["path"]
    strip = Image.open(tmp_path / "log" / STRIPS / "iteration-000003.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), np.asarray(strip))


def test_without_the_package_nothing_is_written(settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=f"C.wandb = {PROJECT}: the package wandb is not installed; run 'pip install"):
        Trainer(settings(), CPU, console=Console(quiet=True))
    assert not (tmp_path / "log").exists()
    Trainer(settings(wandb=None), CPU, console=Console(quiet=True))


class StandIn:
    """Replaces the package; `fails` contains the exceptions that `init` and `log` raise."""

    class Error(Exception):
        pass

    __spec__ = object()  # makes it count as installed

    def __init__(self):
        self.fails: dict[str, Exception] = {}
        self.asked: dict[str, Any] = {}
        self.logged: list[dict] = []
        self.ended: list[int] = []

    def init(self, **asked: Any) -> "StandIn":
        if "init" in self.fails:
            raise self.fails["init"]
        self.asked = asked
        return self

    def log(self, record: dict) -> None:
        if "log" in self.fails:
            raise self.fails["log"]
        self.logged.append(record)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)

    def define_metric(self, *_, **__) -> None:
        pass

    Settings = SimpleNamespace
    Image = staticmethod(lambda picture: picture.shape)
    Histogram = staticmethod(lambda np_histogram: np_histogram)
    offline, url = False, "https://example.org"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    package = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def test_values_of_an_iteration_are_one_record(settings, package: StandIn) -> None:
    writer = WandbWriter(settings(), "a1", print)
    assert (package.asked["id"], package.asked["resume"], writer.place) == ("a1", "allow", "https://example.org")
    writer.add_scalar("a", 1.5, 3)
    writer.add_image("b", np.zeros((2, 3, 3), np.uint8), 3, dataformats="HWC")
    writer.add_histogram_raw("c", 0, 1, 5, 2.5, 2.0, [0.5, 1.0], [2, 3], 3)
    writer.add_scalar("a", 2.5, 7)
    writer.close()
    assert package.logged == [
        {"iteration": 3, "a": 1.5, "b": (2, 3, 3), "c": ([2, 3], [0.0, 0.5, 1.0])},
        {"iteration": 7, "a": 2.5},
    ]
    assert package.ended == [0]


def test_a_run_that_can_not_begin_removes_no_other_run(settings, package: StandIn, tmp_path: Path) -> None:
    other = tmp_path / "log" / "snapshot" / "epoch-1.pth"
    other.parent.mkdir(parents=True)
    other.touch()
    package.fails["init"] = package.Error("no API key\nmore")
    trainer = Trainer(settings(), CPU, overwrite=True, console=Console(quiet=True))
    with pytest.raises(UserError, match=r"can't start \(no API key\); run 'wandb login', or set WANDB_MODE=offline"):
        trainer.fit()
    assert other.exists()


def test_logging_errors_do_not_end_the_run(settings, package: StandIn) -> None:
    said: list[str] = []
    writer = WandbWriter(settings(), "a1", said.append)
    package.fails["log"] = ConnectionResetError("gone")
    for iteration in range(3):
        writer.add_scalar("a", 1.0, iteration)
    writer.close()
    assert said == ["wandb: can't log (gone); the run continues without it"] and not package.ended


@pytest.mark.parametrize(("error", "status"), [(None, 0), (KeyError, 1), (UserError, 1)])
def test_the_status_of_a_run_is_reported(settings, package: StandIn, tmp_path: Path, error, status: int) -> None:
    monitor = make_monitor(tmp_path, tracker=WandbWriter(settings(), "a1", print))
    try:
        with monitor:
            monitor.record(1, 0.1, {"loss": torch.tensor(1.0)})
            if error:
                raise error
    except (KeyError, UserError):
        pass
    assert package.ended == [status]
    assert package.logged[0]["train/loss"] == 1.0 and package.logged[0]["iteration"] == 1
