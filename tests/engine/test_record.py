"""The record of a run: what it began with stays, and each continuation is added."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from furnace.datasets.loaders import build_train_set
from furnace.engine.distributed import CPU
from furnace.engine.record import RECORD, read_record, write_record
from furnace.utils.settings import Settings


def test_continuations_are_added(make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch):
    C = make_settings(log_dir=str(tmp_path / "log"))
    path, dataset = Path(C.snapshot_dir) / RECORD, build_train_set(C)

    def note(command: str) -> dict:
        monkeypatch.setattr("sys.argv", [command])
        write_record(C, dataset, CPU)
        return json.loads(path.read_text())

    note("earlier")
    begun = note("first")  # without a save there is nothing that goes on
    assert begun["command"] == ["first"] and "continuations" not in begun
    assert begun["settings"]["lr"] == C.lr and begun["lists"]["labeled"]["images"] == 5
    (path.parent / "epoch-0.pth").touch()
    first_lr = C.lr
    C = C.updated(lr=0.5)
    C = C.updated(on_nan="skip")
    note("second")
    C = C.updated(lr=first_lr)
    record = note("third")
    assert {key: value for key, value in record.items() if key != "continuations"} == begun
    second, third = record["continuations"]
    assert (second["command"], second["settings"]) == (["second"], {"lr": 0.5, "on_nan": "skip"})
    assert (third["command"], third["settings"]) == (["third"], {"lr": first_lr})
    assert second["device"] == begun["device"] and second["versions"] == begun["versions"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": 1}'])
def test_an_unreadable_record_is_begun_anew(make_settings: Callable[..., Settings], tmp_path: Path, content: str):
    C = make_settings(log_dir=str(tmp_path / "log"))
    path = Path(C.snapshot_dir) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (path.parent / "epoch-0.pth").touch()
    assert read_record(path) == {}
    write_record(C, build_train_set(C), CPU)
    assert read_record(path)["settings"]["lr"] == C.lr
