"""The folder of snapshots: the latest undamaged one is found for any names, times and damage."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from furnace.engine.snapshot_folder import (
    AUTOSAVE,
    LAST,
    clear,
    copy_as_last,
    find_snapshots,
    list_epochs,
    list_snapshots,
    newest_sound,
    prune,
)
from furnace.engine.snapshots import save_snapshot
from furnace.utils.errors import UserError
from tests.engine.small_snapshots import save_at, snapshot_of, trained


def test_the_last_one_is_a_copy_and_survives_the_removal_of_the_original(tmp_path: Path) -> None:
    saved = save_at(tmp_path / "epoch-3.pth", 12, age=0)
    copy_as_last(saved)
    content = saved.read_bytes()
    save_snapshot(saved, snapshot_of(*trained(), iteration=99))
    assert saved.with_name(LAST).read_bytes() == content


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for epoch in (2, 4, 10, 8):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    (tmp_path / AUTOSAVE).touch()
    assert prune(tmp_path, 0) == prune(tmp_path, 4) == prune(tmp_path, 6) == []
    assert [path.name for path in prune(tmp_path, 2)] == ["epoch-2.pth", "epoch-4.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [AUTOSAVE, "epoch-10.pth", "epoch-8.pth"]


def test_the_last_epochs_are_kept_whatever_the_times_of_their_files(tmp_path: Path) -> None:
    for age, epoch in enumerate((2, 9, 8, 7)):  # as after a copy, or with a clock that went back
        path = tmp_path / f"epoch-{epoch}.pth"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert [path.name for path in prune(tmp_path, 2)] == ["epoch-2.pth", "epoch-7.pth"]


def test_clearing_removes_saves_and_partial_files_only(tmp_path: Path) -> None:
    for name in ("epoch-2.pth", LAST, AUTOSAVE, ".0a.pth.part", "mine.pth", "run.json"):
        (tmp_path / name).touch()
    assert clear(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pth", "run.json"]


def test_the_latest_save_is_found_whatever_its_name(tmp_path: Path) -> None:
    assert newest_sound(tmp_path) == (None, [])
    save_at(tmp_path / "epoch-2.pth", 12, age=30)
    autosave = save_at(tmp_path / AUTOSAVE, 17, age=60)
    snapshot, faults = newest_sound(tmp_path)
    assert (snapshot.path, snapshot.iteration, faults) == (str(autosave), 17, [])


@pytest.mark.parametrize("autosave, first", [((9, 42), AUTOSAVE), ((8, 39), "epoch-9.pth")])
@pytest.mark.parametrize("oldest", [AUTOSAVE, "epoch-9.pth", "epoch-2.pth"])
def test_the_furthest_save_comes_first_whatever_the_times_of_files(
    tmp_path: Path, autosave: tuple, first: str, oldest: str
) -> None:
    for name, (epoch, iteration) in {"epoch-9.pth": (9, 40), "epoch-2.pth": (2, 12), AUTOSAVE: autosave}.items():
        save_snapshot(tmp_path / name, snapshot_of(*trained(), iteration=iteration, epoch=epoch))
    os.utime(tmp_path / oldest, (1000, 1000))
    names = [path.name for path in list_snapshots(tmp_path)]
    assert names[0] == first and names[-1] == "epoch-2.pth"
    (tmp_path / "epoch-11.pth").write_bytes(b"damaged")
    snapshot, faults = newest_sound(tmp_path)
    assert Path(snapshot.path).name == first and "epoch-11.pth" in faults[0]


def damage_end(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_weight(content: bytes) -> bytes:
    """Change one bit of one weight; PyTorch itself does not notice this."""
    weight = trained()[0].branch1[2].weight.detach().numpy().tobytes()
    at = content.index(weight)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [damage_end, damage_weight, lambda content: b"", lambda content: os.urandom(5000)])
def test_a_damaged_save_is_named_and_an_earlier_one_taken(tmp_path: Path, damage: Callable) -> None:
    sound = save_at(tmp_path / "epoch-2.pth", 9, age=60)
    path = save_at(tmp_path / AUTOSAVE, 13, age=30)
    path.write_bytes(damage(path.read_bytes()))
    snapshot, faults = newest_sound(tmp_path)
    assert (snapshot.path, snapshot.iteration) == (str(sound), 9)
    (fault,) = faults
    assert fault.startswith(f"{path}: ")
    sound.unlink()
    with pytest.raises(UserError, match=r"none of 1 snapshots can be read.*autosave\.pth"):
        newest_sound(tmp_path)


@pytest.mark.parametrize(
    "which, epochs",
    [("4", [4]), ("2-4", [2, 4]), ("3-", [4, 10]), ("0-99", [2, 4, 10]), (" 10 ", [10])],
)
def test_snapshots_are_found_by_epoch(tmp_path: Path, which: str, epochs: list[int]) -> None:
    for epoch in (10, 2, 4):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    assert find_snapshots(which, tmp_path) == [tmp_path / f"epoch-{epoch}.pth" for epoch in epochs]


@pytest.mark.parametrize("name", ["best.ckpt", "model.safetensors", "folder/weights"])
def test_a_file_of_another_program_is_found_by_its_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert find_snapshots(str(tmp_path / name), tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("which", ["x.pth", "x.safetensors", "a/b"])
def test_a_missing_path_is_an_error(tmp_path: Path, which: str) -> None:
    with pytest.raises(UserError, match=f"-e {which}: no such file"):
        find_snapshots(which, tmp_path)


@pytest.mark.parametrize("which", ["5", "11-", "4-2", "last", "", "-4", "1-2-3", "٣", "0000000004"])
def test_a_missing_epoch_is_an_error_that_lists_the_existing_ones(tmp_path: Path, which: str) -> None:
    for epoch in (3, 4):
        (tmp_path / f"epoch-{epoch}.pth").touch()
    with pytest.raises(UserError, match=f"-e {which}: .*; {tmp_path} holds epochs 3, 4$"):
        find_snapshots(which, tmp_path)


@pytest.mark.parametrize("which", ["5", "0-", "last"])
def test_a_folder_without_snapshots_is_an_error(tmp_path: Path, which: str) -> None:
    with pytest.raises(UserError, match=f"-e {which}: .*; {tmp_path} holds no snapshots: train first$"):
        find_snapshots(which, tmp_path)


def test_a_newest_snapshot_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    earlier = save_at(tmp_path / "epoch-3.pth", 12, age=10)
    network, optimizer = trained()
    torch.nn.init.constant_(next(network.parameters()), torch.nan)
    save_snapshot(tmp_path / "epoch-4.pth", snapshot_of(network, optimizer, iteration=16))
    snapshot, faults = newest_sound(tmp_path)
    assert (snapshot.path, snapshot.iteration) == (str(earlier), 12)
    assert len(faults) == 1 and "epoch-4.pth" in faults[0] and "not finite" in faults[0]


def test_epochs_are_sorted_and_other_names_are_ignored(tmp_path: Path) -> None:
    for name in (
        "epoch-10.pth",
        "epoch-9.pth",
        "epoch-00.pth",
        LAST,
        "epoch-1.pth.part",
        "my-epoch-3.pth",
        "epoch-.pth",
    ):
        (tmp_path / name).touch()
    assert list(list_epochs(tmp_path).items()) == [
        (epoch, tmp_path / name) for epoch, name in ((0, "epoch-00.pth"), (9, "epoch-9.pth"), (10, "epoch-10.pth"))
    ]


def test_the_last_one_is_copied_if_the_disk_has_no_hard_links(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_) -> None:
        raise OSError("no hard links")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "epoch-3.pth").write_bytes(b"content")
    copy_as_last(tmp_path / "epoch-3.pth")
    assert (tmp_path / LAST).read_bytes() == b"content"
    assert {path.name for path in tmp_path.iterdir()} == {LAST, "epoch-3.pth"}
