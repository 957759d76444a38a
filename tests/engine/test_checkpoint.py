"""Snapshots: published keys, whole or not at all, checked on load, sound ones found among damaged ones."""

import errno
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from furnace.engine import snapshot_folder
from furnace.engine.checkpoint import (
    Snapshot,
    check_finite,
    find_snapshots,
    is_snapshot_epoch,
    load_network,
    load_optimizer,
    load_snapshot,
    save_snapshot,
)
from furnace.engine.snapshot_folder import AUTOSAVE, LAST, clear, copy_as_last, list_saves, newest_sound, prune
from furnace.utils import files
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY

SETTINGS = {"num_classes": 3, "backbone": "resnet18"}


class Small(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


def trained(classes: int = 3) -> tuple[Small, torch.optim.SGD]:
    """A network after one step, so that its optimizer has momentum."""
    torch.manual_seed(0)
    network = Small(classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.branch1(torch.randn(2, 3, 4, 4)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def snapshot_of(network: Small, optimizer: torch.optim.SGD, iteration: int = 12, **changes) -> Snapshot:
    content = {"model": network.state_dict(), "optimizers": [optimizer.state_dict()], "epoch": 3}
    return Snapshot(**{**content, "iteration": iteration, "settings": SETTINGS, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "epoch-3.pth"
    save_snapshot(path, snapshot_of(*trained()))
    return path


def save_at(path: Path, iteration: int, age: int) -> Path:
    """A snapshot, last changed `age` seconds ago."""
    save_snapshot(path, snapshot_of(*trained(), iteration=iteration))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
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


def test_momentum_takes_the_memory_format_of_its_parameter_and_is_zero_where_there_is_none() -> None:
    """As fused kernels want it: a snapshot of a CPU has another format than the networks of a GPU."""
    network = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    state = optimizer.state_dict()
    expected = state["state"][0]["momentum_buffer"].clone()
    state["state"][1]["momentum_buffer"] = None
    network = network.to(memory_format=torch.channels_last)
    fresh = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    load_optimizer(fresh, state, "epoch-3.pth")
    found, bias = (fresh.state[parameter]["momentum_buffer"] for parameter in network.parameters())
    assert found.stride() == network.weight.stride() != expected.stride()
    assert torch.equal(found, expected) and torch.equal(bias, torch.zeros(4))


def test_a_file_of_the_published_code_can_be_read(tmp_path: Path) -> None:
    network, optimizer = trained()
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    states = {"optimizer_1": optimizer.state_dict(), "optimizer_2": optimizer.state_dict()}
    torch.save({"model": model, **states, "epoch": 20, "iteration": 1156}, tmp_path / "epoch-20.pth")
    snapshot = load_snapshot(tmp_path / "epoch-20.pth")
    assert (snapshot.epoch, snapshot.iteration, len(snapshot.optimizers)) == (20, None, 2)
    load_network(Small(), snapshot, "epoch-20.pth")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model: model.pop("branch1.0.bias"),
            r"1 tensors are missing and 0 are unknown, such as branch1\.0\.bias",
        ),
        (lambda model: model.update(extra=torch.ones(1)), r"0 tensors are missing and 1 are unknown, such as extra"),
    ],
)
def test_other_names_are_named(saved: Path, change: Callable, message: str) -> None:
    snapshot = load_snapshot(saved)
    change(snapshot.model)
    with pytest.raises(UserError, match=message):
        load_network(Small(), snapshot, saved)


def test_another_number_of_classes_is_named_with_the_settings(saved: Path) -> None:
    with pytest.raises(
        UserError, match=r"branch1\.2\.weight has shape \(3, 4, 1, 1\).*\(5, 4, 1, 1\).*C\.num_classes = 3"
    ):
        load_network(Small(5), load_snapshot(saved), saved)


def test_only_the_settings_that_differ_are_named_from_both_sides(saved: Path) -> None:
    with pytest.raises(UserError) as error:
        load_network(Small(5), load_snapshot(saved), saved, {"num_classes": 5, "backbone": "resnet18"})
    assert str(error.value).endswith("; it was made with C.num_classes = 3, here 5")
    with pytest.raises(UserError, match=r"made with other settings: check C\.num_classes and C\.backbone"):
        load_network(Small(5), load_snapshot(saved), saved, SETTINGS)


def test_settings_that_are_no_values_are_still_compared(saved: Path) -> None:
    odd = Snapshot(load_snapshot(saved).model, [], 3, 12, {"num_classes": torch.ones(2), "method": "m" * 5000})
    with pytest.raises(
        UserError, match=r"C\.num_classes = tensor\(\[1\., 1\.\]\), here 5; C\.method = 'm{79}, here 'cps'$"
    ):
        load_network(Small(5), odd, saved, {"num_classes": 5, "method": "cps"})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["param_groups"].append(state["param_groups"][0]), "other groups of parameters"),
        (lambda state: state.pop("state"), "other groups of parameters"),
        (lambda state: state["state"].update({99: {}}), "unknown parameter 99"),
        (lambda state: state["state"][0].update(momentum_buffer=torch.ones(2)), "another shape for parameter 0"),
    ],
)
def test_an_optimizer_of_another_network_is_refused(saved: Path, change: Callable, message: str) -> None:
    state = load_snapshot(saved).optimizers[0]
    change(state)
    with pytest.raises(UserError, match=message):
        load_optimizer(trained()[1], state, saved)


@pytest.mark.parametrize("where", ["model", "momentum"])
def test_values_that_are_not_finite_are_refused(where: str) -> None:
    network, optimizer = trained()
    tensors = network.state_dict() if where == "model" else optimizer.state_dict()["state"][0]
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    with pytest.raises(UserError, match="finite"):
        check_finite(snapshot_of(network, optimizer), "file")


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
    """The limit on a file's size is the system's: what it leaves is what a full disk leaves."""
    before = saved.read_bytes()
    code = (
        "import resource, sys; from pathlib import Path; import torch\n"
        "from furnace.engine.checkpoint import Snapshot, save_snapshot\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({2**16}, {resource.RLIM_INFINITY}))\n"
        "save_snapshot(Path(sys.argv[1]), Snapshot({'w': torch.ones(2**18)}, [], 0, 0, {}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], cwd=REPOSITORY, capture_output=True, text=True)
    assert "epoch-3.pth: can't be written (File too large)" in done.stderr.splitlines()[-1]
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_last_one_is_a_copy_and_survives_the_removal_of_the_original(saved: Path) -> None:
    copy_as_last(saved)
    content = saved.read_bytes()
    save_snapshot(saved, snapshot_of(*trained(), iteration=99))
    assert saved.with_name(LAST).read_bytes() == content


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for epoch in (2, 4, 10, 8):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    (tmp_path / AUTOSAVE).touch()
    assert prune(tmp_path, 0) == []
    assert [path.name for path in prune(tmp_path, 2)] == ["epoch-2.pth", "epoch-4.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [AUTOSAVE, "epoch-10.pth", "epoch-8.pth"]


def test_of_epochs_with_the_same_time_the_later_are_kept(tmp_path: Path) -> None:
    for epoch in (10, 2, 9):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    same_time(tmp_path)
    assert [path.name for path in prune(tmp_path, 1)] == ["epoch-2.pth", "epoch-9.pth"]


def test_what_was_saved_last_is_kept_whatever_its_number(tmp_path: Path) -> None:
    for age, epoch in enumerate((2, 9, 8, 7)):  # a run gone back to epoch 1, which has come to epoch 2 again
        path = tmp_path / f"epoch-{epoch}.pth"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert [path.name for path in prune(tmp_path, 2)] == ["epoch-7.pth", "epoch-8.pth"]


def test_clearing_removes_saves_and_what_a_killed_run_left_but_nothing_else(tmp_path: Path) -> None:
    for name in ("epoch-2.pth", LAST, AUTOSAVE, ".epoch-4.pth.part", "mine.pth", "run.json"):
        (tmp_path / name).touch()
    assert clear(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pth", "run.json"]


def test_the_latest_save_is_found_whatever_its_name(tmp_path: Path) -> None:
    assert newest_sound(tmp_path) is None
    save_at(tmp_path / "epoch-9.pth", 40, age=60)
    autosave = save_at(tmp_path / AUTOSAVE, 13, age=30)
    path, snapshot, faults = newest_sound(tmp_path)
    assert (path, snapshot.iteration, faults) == (autosave, 13, [])


def same_time(folder: Path) -> None:
    """As a disk whose clock is coarse, or a copy that keeps no times, may leave them."""
    for path in folder.iterdir():
        os.utime(path, (1000, 1000))


@pytest.mark.parametrize("autosave, first", [((9, 42), AUTOSAVE), ((8, 39), "epoch-9.pth")])
def test_of_saves_with_the_same_time_the_furthest_comes_first(tmp_path: Path, autosave: tuple, first: str) -> None:
    for name, (epoch, iteration) in {"epoch-9.pth": (9, 40), "epoch-2.pth": (2, 12), AUTOSAVE: autosave}.items():
        save_snapshot(tmp_path / name, snapshot_of(*trained(), iteration=iteration, epoch=epoch))
    (tmp_path / "epoch-11.pth").write_bytes(b"damaged")
    same_time(tmp_path)
    names = [path.name for path in list_saves(tmp_path)]
    assert names[0] == first
    assert names[-2:] == ["epoch-2.pth", "epoch-11.pth"]
    os.utime(tmp_path / "epoch-2.pth", (1001, 1001))  # a run that has gone back is where it was saved last
    assert list_saves(tmp_path)[0].name == "epoch-2.pth"


def test_hard_links_are_no_reason_to_look_into_files(tmp_path: Path, monkeypatch) -> None:
    save_at(tmp_path / "epoch-2.pth", 9, age=60)
    copy_as_last(save_at(tmp_path / "epoch-4.pth", 15, age=30))
    monkeypatch.setattr(snapshot_folder, "read_progress", lambda path: pytest.fail(f"reads {path}"))
    assert [path.name for path in list_saves(tmp_path)] == ["epoch-4.pth", LAST, "epoch-2.pth"]


def damage_end(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_weight(content: bytes) -> bytes:
    """One bit of one weight changed: PyTorch itself does not notice."""
    weight = trained()[0].branch1[2].weight.detach().numpy().tobytes()
    at = content.index(weight)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [damage_end, damage_weight, lambda content: b"", lambda content: os.urandom(5000)])
def test_a_damaged_save_is_named_and_an_earlier_one_taken(tmp_path: Path, damage: Callable) -> None:
    sound = save_at(tmp_path / "epoch-2.pth", 9, age=60)
    path = save_at(tmp_path / AUTOSAVE, 13, age=30)
    path.write_bytes(damage(path.read_bytes()))
    found, snapshot, faults = newest_sound(tmp_path)
    assert (found, snapshot.iteration) == (sound, 9)
    (fault,) = faults
    assert fault.startswith(f"{path}: ")
    sound.unlink()
    with pytest.raises(UserError, match=r"none of 1 snapshots can be read.*autosave\.pth"):
        newest_sound(tmp_path)


class Trap:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, saved: Path, form: str) -> None:
    marker, path = tmp_path / "code_was_run", tmp_path / AUTOSAVE
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(marker), protocol=2))
    else:
        torch.save(torch.load(saved) | {"settings": Trap(marker)}, path)
    with pytest.raises(
        UserError, match=r"autosave\.pth: refused: it asks for io\.open, and code in a file is never run"
    ):
        load_snapshot(path)
    assert newest_sound(tmp_path)[0] == saved
    assert not marker.exists()
    pickle.loads(path.read_bytes()) if form == "pickle" else torch.load(path, weights_only=False)
    assert marker.exists(), "the trap is broken: plain unpickling doesn't spring it"


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
def test_anything_else_is_no_snapshot(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth: no snapshot"):
        load_snapshot(tmp_path / "file.pth")


def test_bare_weights_are_a_snapshot_of_no_epoch(tmp_path: Path) -> None:
    state: dict[str, Tensor] = trained()[0].state_dict()
    torch.save(state, tmp_path / "weights.pth")
    snapshot = load_snapshot(tmp_path / "weights.pth")
    assert (snapshot.epoch, snapshot.iteration, snapshot.optimizers) == (-1, None, [])
    load_network(Small(), snapshot, "weights.pth")


@pytest.mark.parametrize(
    "which, epochs",
    [("4", [4]), ("2-4", [2, 4]), ("3-", [4, 10]), ("0-99", [2, 4, 10]), (" 10 ", [10])],
)
def test_snapshots_are_found_by_epoch(tmp_path: Path, which: str, epochs: list[int]) -> None:
    for epoch in (10, 2, 4):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    assert find_snapshots(which, tmp_path) == [tmp_path / f"epoch-{epoch}.pth" for epoch in epochs]


@pytest.mark.parametrize("which", ["5", "11-", "4-2", "last", "x.pth", "", "-4", "1-2-3", "٣"])
def test_what_is_not_there_is_an_error_that_lists_what_is(tmp_path: Path, which: str) -> None:
    (tmp_path / "epoch-4.pth").touch()
    with pytest.raises(UserError, match=f"-e {which}"):
        find_snapshots(which, tmp_path)
