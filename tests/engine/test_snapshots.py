"""Snapshots: published keys, written completely or not at all, checked on load."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from furnace.engine.continuing import load_optimizer
from furnace.engine.snapshots import (
    Snapshot,
    check_finite,
    check_weights,
    is_snapshot_epoch,
    load_network,
    load_snapshot,
    save_snapshot,
)
from furnace.utils import files
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY
from tests.engine.small_snapshots import SETTINGS, Small, snapshot_of, trained


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "epoch-3.pth"
    save_snapshot(path, snapshot_of(*trained()))
    return path


def test_a_snapshot_has_the_published_keys_and_comes_back(saved: Path) -> None:
    plain = torch.load(saved, weights_only=True)
    assert {"model", "optimizer_1", "epoch", "iteration", "settings"} <= plain.keys()
    assert "optimizer_2" not in plain
    network, optimizer = trained()
    snapshot = load_snapshot(saved)
    assert (snapshot.epoch, snapshot.iteration, snapshot.settings) == (3, 12, SETTINGS)
    for name, value in network.state_dict().items():
        assert torch.equal(snapshot.model[name], value), name
    fresh = torch.optim.SGD(network.parameters(), lr=7.0, momentum=0.9)
    load_optimizer(fresh, snapshot.optimizers[0], saved)
    assert fresh.param_groups[0]["lr"] == 7.0
    for parameter in network.parameters():
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


def test_a_file_of_the_published_code_can_be_read(tmp_path: Path) -> None:
    network, optimizer = trained()
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    states = {"optimizer_1": optimizer.state_dict(), "optimizer_2": optimizer.state_dict()}
    torch.save({"model": model, **states, "epoch": 20, "iteration": 1156}, tmp_path / "epoch-20.pth")
    snapshot = load_snapshot(tmp_path / "epoch-20.pth")
    assert (snapshot.epoch, snapshot.iteration, len(snapshot.optimizers)) == (20, None, 2)
    load_network(Small(), snapshot)
    assert snapshot.note == f"{tmp_path}/epoch-20.pth: removed from its names: module."


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model: model.pop("branch1.0.bias"),
            r"1 tensors are missing and 0 are unknown, such as branch1\.0\.bias",
        ),
        (
            lambda model: model.update({"branch1.9.bias": torch.ones(1)}),
            r"0 tensors are missing and 1 are unknown, such as branch1\.9\.bias",
        ),
    ],
)
def test_missing_and_unknown_tensors_are_named(saved: Path, change: Callable, message: str) -> None:
    snapshot = load_snapshot(saved)
    change(snapshot.model)
    with pytest.raises(UserError, match=message):
        load_network(Small(), snapshot)


@pytest.mark.parametrize(
    "rename, counts, advice",
    [
        (lambda name: name, "1 branches, the network has 2", "C.method = 'supervised', here 'cpcl'"),
        (lambda name: name.removeprefix("branch1."), "0 branches, the network has 2", "name them branch1"),
    ],
)
def test_another_number_of_branches_is_named(saved: Path, rename: Callable, counts: str, advice: str) -> None:
    snapshot = load_snapshot(saved)
    model = {rename(name): tensor for name, tensor in snapshot.model.items()}
    snapshot = replace(snapshot, model=model, settings={"method": "supervised"})
    network = Small()
    network.branch2 = network.branch1
    with pytest.raises(UserError, match=f"has tensors of {counts}; .*{advice}"):
        load_network(network, snapshot, {"method": "cpcl"})


def test_the_method_of_a_published_file_is_asked_for(saved: Path) -> None:
    network = Small()
    network.branch2 = network.branch1
    with pytest.raises(UserError, match=r"1 branches, the network has 2; name its method with -o method="):
        load_network(network, replace(load_snapshot(saved), settings={}))


def test_the_state_of_a_method_may_be_missing_or_additional(saved: Path) -> None:
    with_counts, without = Small(), Small()
    with_counts.register_buffer("agreement", torch.full((2, 2), 7.0))
    load_network(with_counts, load_snapshot(saved))
    assert (with_counts.agreement == 7).all(), "it begins as in a new run"
    snapshot = load_snapshot(saved)
    snapshot.model["agreement"] = torch.ones(2, 2)
    load_network(without, snapshot)
    assert torch.equal(without.state_dict()["branch1.0.bias"], snapshot.model["branch1.0.bias"])
    load_network(with_counts, snapshot)
    assert (with_counts.agreement == 1).all()


def test_another_number_of_classes_is_named_with_the_settings(saved: Path) -> None:
    with pytest.raises(
        UserError, match=r"branch1\.2\.weight has shape \(3, 4, 1, 1\).*\(5, 4, 1, 1\).*C\.num_classes = 3"
    ):
        load_network(Small(5), load_snapshot(saved))


def test_only_different_settings_are_named_with_both_values(saved: Path) -> None:
    with pytest.raises(UserError) as error:
        load_network(Small(5), load_snapshot(saved), {"num_classes": 5, "backbone": "resnet18"})
    assert str(error.value).endswith("; it was made with C.num_classes = 3, here 5")
    with pytest.raises(UserError, match=r"made with other settings: check C\.num_classes and C\.backbone"):
        load_network(Small(5), load_snapshot(saved), SETTINGS)


def test_settings_with_invalid_values_are_still_compared(saved: Path) -> None:
    odd = Snapshot(load_snapshot(saved).model, [], 3, 12, {"num_classes": torch.ones(2), "method": "m" * 5000})
    with pytest.raises(
        UserError, match=r"C\.num_classes = tensor\(\[1\., 1\.\]\), here 5; C\.method = 'm{79}, here 'cps'$"
    ):
        load_network(Small(5), odd, {"num_classes": 5, "method": "cps"})


@pytest.mark.parametrize("where", ["model", "momentum"])
def test_values_that_are_not_finite_are_refused(where: str) -> None:
    network, optimizer = trained()
    tensors = network.state_dict() if where == "model" else optimizer.state_dict()["state"][0]
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    with pytest.raises(UserError, match="finite"):
        check_finite(snapshot_of(network, optimizer))


@given(st.integers(1, 400), st.integers(1, 9))
def test_the_published_rule_of_snapshots(nepochs: int, snapshot_iter: int) -> None:
    due = [epoch for epoch in range(nepochs) if is_snapshot_epoch(epoch, nepochs, snapshot_iter)]
    expected = {epoch for epoch in range(nepochs // 6 + 1, nepochs) if epoch % snapshot_iter == 0}
    assert set(due) == expected | {nepochs - 1}


def test_a_full_disk_keeps_the_old_snapshot_and_says_how_much_is_needed(saved: Path, monkeypatch) -> None:
    before = saved.read_bytes()

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(UserError, match=r"epoch-3\.pth: no space left.* are needed, .* are free.*kept"):
        save_snapshot(saved, snapshot_of(*trained(), iteration=99))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_write_that_the_system_refuses_keeps_the_old_snapshot(saved: Path) -> None:
    """The system enforces the limit on the size of files, so its effect is that of a full disk."""
    before = saved.read_bytes()
    code = (
        "import resource, sys; from pathlib import Path; import torch\n"
        "from furnace.engine.snapshots import Snapshot, save_snapshot\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({2**16}, {resource.RLIM_INFINITY}))\n"
        "save_snapshot(Path(sys.argv[1]), Snapshot({'w': torch.ones(2**18)}, [], 0, 0, {}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], cwd=REPOSITORY, capture_output=True, text=True)
    assert "epoch-3.pth: can't be written (File too large)" in done.stderr.splitlines()[-1]
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_with_code_is_refused_and_not_run(trapped_file: tuple[Path, Path]) -> None:
    path, marker = trapped_file
    with pytest.raises(UserError, match=r"refused: it asks for io\.open, and code in a file is never run"):
        load_snapshot(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        torch.ones(2),
        {"model": {}},
        {"model": {"w": 1}},
        {"model": {"w": torch.ones(1)}, "epoch": "three"},
        {"model": {"w": torch.ones(1)}, "optimizer_1": [1]},
        {"model": {"w": torch.ones(1)}, "settings": {"a": 1}, "iteration": -4},
        {"model": {"w": torch.ones(1)}, "settings": {"a": 1}, "iteration": None},
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth: not a snapshot"):
        load_snapshot(tmp_path / "file.pth")


def test_bare_weights_are_a_snapshot_without_an_epoch(tmp_path: Path) -> None:
    state: dict[str, Tensor] = trained()[0].state_dict()
    torch.save(state, tmp_path / "weights.pth")
    snapshot = load_snapshot(tmp_path / "weights.pth")
    assert (snapshot.epoch, snapshot.iteration, snapshot.optimizers) == (-1, None, [])
    load_network(Small(), snapshot)
    assert snapshot.note == ""


def renamed(model: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in model.items()}


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (
            lambda model: {"model": renamed(model, "branch1.", "_orig_mod.branch1.")},
            "removed from its names: _orig_mod.",
        ),
        (lambda model: {"state_dict": renamed(model, "branch1.", "model.branch1.")}, "removed from its names: model."),
        (lambda model: renamed(model, "branch1.", "branch1._orig_mod."), "removed from its names: _orig_mod."),
        (
            lambda model: {
                "model_ema": {"n_averaged": torch.tensor(3), **renamed(model, "branch1.", "module.branch1.")}
            },
            "taken from 'model_ema'; removed from its names: module.; not used: n_averaged",
        ),
        (lambda model: {"model": {name: value.half() for name, value in model.items()}}, ""),
        (lambda model: {"model": model, "optimizer": {"state": {}}, "best": np.float64(0.5)}, ""),
    ],
    ids=["compiled", "Lightning", "compiled branch", "moving average", "half precision", "scores and optimizer"],
)
def test_weights_of_other_programs_are_read_and_the_note_describes_them(tmp_path: Path, wrap, note: str) -> None:
    state = trained()[0].state_dict()
    torch.save(wrap(state), tmp_path / "theirs.pth")
    snapshot = load_snapshot(tmp_path / "theirs.pth")
    network = Small()
    load_network(network, snapshot)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-3)
    assert snapshot.note == (f"{tmp_path}/theirs.pth: {note}" if note else "")


def test_safetensors_are_bare_weights(tmp_path: Path) -> None:
    state = trained()[0].state_dict()
    save_file({f"model.{name}": value for name, value in state.items()}, tmp_path / "model.safetensors")
    snapshot = load_snapshot(tmp_path / "model.safetensors")
    assert (snapshot.epoch, snapshot.optimizers) == (-1, [])
    load_network(Small(), snapshot)


def test_numpy_numbers_are_accepted(tmp_path: Path) -> None:
    torch.save({"model": trained()[0].state_dict(), "epoch": np.int64(3)}, tmp_path / "numpy.pth")
    assert load_snapshot(tmp_path / "numpy.pth").epoch == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64])
def test_weights_of_any_precision_are_checked(dtype: torch.dtype) -> None:
    check_weights({"w": torch.ones(2).to(dtype)}, "file", "advice")
    if dtype.is_floating_point:
        with pytest.raises(UserError, match="file: w holds values that are not finite; advice"):
            check_weights({"w": torch.tensor([1, torch.nan]).to(dtype)}, "file", "advice")
