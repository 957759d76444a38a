"""The record of a run: its start stays unchanged, and each continuation is added."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from furnace.datasets.loaders import build_train_set
from furnace.engine.distributed import CPU
from furnace.engine.identity import data_identity
from furnace.engine.record import RECORD, append_metrics, commit, read_metrics, read_record, versions, write_record
from furnace.utils.settings import Settings


def test_continuations_are_added(make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch):
    C = make_settings(log_dir=str(tmp_path / "log"))
    path = Path(C.snapshot_dir) / RECORD
    identity = {"run": "a", "data": data_identity(C, build_train_set(C)), "precision": "bf16", "versions": versions()}

    def note(command: str, continues: bool = True) -> dict:
        monkeypatch.setattr("sys.argv", [command])
        write_record(C, identity, CPU, continues)
        return json.loads(path.read_text())

    note("earlier", continues=False)
    begun = note("first", continues=False)
    assert begun["command"] == ["first"] and "continuations" not in begun
    assert begun["precision"] == "bf16", "what C.amp = auto became"
    assert begun["settings"]["lr"] == C.lr and begun["lists"]["labeled"]["images"] == 5
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
def test_an_unreadable_record_is_replaced(make_settings: Callable[..., Settings], tmp_path: Path, content: str):
    C = make_settings(log_dir=str(tmp_path / "log"))
    path = Path(C.snapshot_dir) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert read_record(path) == {}
    write_record(C, {"run": "a", "data": {}, "precision": "off", "versions": {}}, CPU, continues=True)
    assert read_record(path)["settings"]["lr"] == C.lr


def test_metrics_are_read_by_iteration_and_run_without_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    append_metrics(path, {"iteration": 5, "loss": 0.5}, "a")
    append_metrics(path, {"iteration": 3, "loss": float("nan"), "lr": float("inf")}, "a")
    append_metrics(path, {"iteration": 5, "loss": 0.25}, "a")
    append_metrics(path, {"iteration": 7, "loss": 1.0}, "b")
    with path.open("ab") as file:
        file.write(b"\xff\x00 a torn line\n")
        file.write(b'{"iteration": 9}\n{"loss": 1}\n[1]\n{"iteration": null}\n{"iteration": "x"}\n{"itera')
    own = [{"iteration": 3, "loss": None, "lr": None}, {"iteration": 5, "loss": 0.25}]
    assert read_metrics(path, "a") == [*own, {"iteration": 9}], "what names no run counts"
    assert read_metrics(path) == [*own, {"iteration": 7, "loss": 1.0}, {"iteration": 9}]


def test_versions_cover_the_packages_that_affect_results() -> None:
    assert list(versions()) == ["python", "torch", "torchvision", "numpy", "opencv"]
    assert all(version[0].isdigit() for version in versions().values())


def test_the_commit_is_that_of_git(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        words = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    assert commit(tmp_path) is None
    git("init")
    assert commit(tmp_path) is None, "there is none yet"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    assert commit(tmp_path) == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path).endswith("-dirty")
