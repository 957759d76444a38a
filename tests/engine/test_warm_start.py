"""A run that begins with the weights of a snapshot: the source of each branch, notes, and unusable snapshots."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.identity import snapshot_digest
from furnace.engine.snapshots import Snapshot, save_snapshot
from furnace.engine.trainer import Trainer
from furnace.engine.warm_start import WarmStart, begin_network
from furnace.methods.build import build_method, build_network
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings


@pytest.fixture
def settings(make_settings, tmp_path: Path) -> Callable[..., Settings]:
    def make(**changes) -> Settings:
        folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        return make_settings(head_channels=8, **folders, **changes)

    return make


def write(C: Settings, path: Path) -> dict[str, torch.Tensor]:
    """Write a snapshot with random weights; returns the weights."""
    torch.manual_seed(99)
    network = build_network(C)
    save_snapshot(path, Snapshot(network.state_dict(), [], 0, 1, C.model_dump()))
    return network.state_dict()


@pytest.mark.parametrize(
    ("theirs", "ours", "sources"),
    [
        ({"method": "supervised"}, {}, {1: 1, 2: 1}),
        ({}, {"teacher": "ema"}, {1: 1, 2: 2, 3: 1, 4: 2}),
        ({}, {"method": "mean_teacher"}, {1: 1, 2: 1}),
        ({"method": "cps"}, {"method": "supervised"}, {1: 1}),
    ],
)
def test_each_branch_begins_with_the_same_branch_or_the_only_one(settings, tmp_path, theirs, ours, sources) -> None:
    path, C = tmp_path / "start.pth", settings(**ours)
    weights = write(settings(**theirs), path)
    start, network = WarmStart(str(path), build_method(C)), build_network(C)
    note = start.fill(network, C.model_dump())
    assert start.sources == {branch: (str(path), source) for branch, source in sources.items()}
    for branch, source in sources.items():
        assert f"{branch} with its branch {source}" in note
        for name, value in network.get_submodule(f"branch{branch}").state_dict().items():
            assert torch.equal(value, weights[f"branch{source}.{name}"]), name
    assert f"{len(network.state_dict())} of {len(network.state_dict())} tensors" in note


def test_each_branch_begins_with_its_own_snapshot(settings, tmp_path) -> None:
    paths, weights = [], []
    for seed in (1, 2):
        path, one = tmp_path / f"start{seed}.pth", settings(method="supervised")
        torch.manual_seed(seed)
        network = build_network(one)
        save_snapshot(path, Snapshot(network.state_dict(), [], 0, 1, one.model_dump()))
        paths.append(path)
        weights.append(network.branch1.state_dict())
    C = settings(teacher="ema", warm_start=tuple(map(str, paths)))
    network, origin = begin_network(C, build_method(C), None)
    for branch, source in ((1, 0), (2, 1), (3, 0), (4, 1)):
        for name, value in network.get_submodule(f"branch{branch}").state_dict().items():
            assert torch.equal(value, weights[source][name]), name
    assert f"3 with {paths[0]}, branch 1" in network.weights_report
    assert origin["warm_start"]["sha256"] == ",".join(map(snapshot_digest, paths))
    alone = WarmStart(C.warm_start, build_method(settings(method="supervised")))
    assert alone.sources == {1: (str(paths[0]), 1)}


def test_classifiers_of_other_classes_are_initialised_anew(settings, tmp_path) -> None:
    path = tmp_path / "start.pth"
    weights = write(settings(method="supervised", num_classes=5), path)
    C = settings(method="supervised")
    network = build_network(C)
    before = {name: value.clone() for name, value in network.branch1.classifier.state_dict().items()}
    note = WarmStart(str(path), build_method(C)).fill(network, C.model_dump())
    assert "start with random weights, as the classes differ" in note
    for name, value in network.state_dict().items():
        kept = before.get(name.removeprefix("branch1.classifier."))
        if kept is not None and kept.shape != weights[name].shape:
            assert name in note and torch.equal(value, kept)
        else:
            assert torch.equal(value, weights[name]), name


def test_a_run_begins_with_the_weights_and_records_their_origin(settings, tmp_path) -> None:
    path = tmp_path / "start.pth"
    weights = write(settings(method="supervised"), path)
    C = settings(warm_start=str(path), nepochs=1, niters_per_epoch=2)
    trainer = Trainer(C, CPU, console=Console(quiet=True))
    assert torch.equal(trainer.network.branch2.head.aspp.red_conv.weight, weights["branch1.head.aspp.red_conv.weight"])
    assert any("branch 1 with its branch 1, 2 with its branch 1" in note for note in trainer.notes)
    trainer.fit()
    origin = {"snapshot": str(path), "sha256": snapshot_digest(path)}
    assert json.loads((Path(C.snapshot_dir) / "run.json").read_text())["warm_start"] == origin
    path.unlink()  # no longer needed
    again = Trainer(C, CPU, "auto", console=Console(quiet=True))
    assert again.identity["warm_start"] == origin


def test_unusable_weights_are_one_line_before_anything_is_written(settings, tmp_path) -> None:
    other = tmp_path / "other.pth"
    write(settings(method="supervised", backbone="resnet18"), other)
    bare = tmp_path / "bare.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, bare)
    for path, message in (
        (other, r"tensors do not fit, such as branch1\.backbone\.\S+; .*C\.backbone = 'resnet18', here 'tiny'"),
        (bare, "contains no branch1"),
        (tmp_path / "none.pth", "no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            Trainer(settings(warm_start=str(path)), CPU, console=Console(quiet=True))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "log").exists()
