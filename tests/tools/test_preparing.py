"""Carry out a plan: complete files, disk space, the default folder."""

import errno
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.archives import open_source
from furnace.datasets.encoding import check_png
from furnace.datasets.protocols import Layout
from furnace.tools import preparing
from furnace.tools.preparing import Plan, Task, carry_out, is_complete, make_tasks, prepare, preparing_parser
from furnace.utils.errors import UserError
from tests.official_archives import jpeg, png, write_folder, write_zip

CONTENT = png(np.arange(40, dtype=np.uint8).reshape(5, 8))
NAMES = [f"{i:03d}" for i in range(150)]


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    source = open_source(write_zip(tmp_path / "a.zip", {f"in/{name}.png": CONTENT for name in reversed(NAMES)}))
    members = {name: f"in/{name}.png" for name in NAMES}
    return make_tasks(source, members, NAMES, tmp_path / "out", ".png", check_png)


def test_every_file_is_made(tasks, tmp_path):
    carry_out(tasks, link=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.png" for name in NAMES]
    assert {path.read_bytes() for path in (tmp_path / "out").iterdir()} == {CONTENT}


def test_a_file_is_complete_if_it_has_the_member_s_size_or_a_png_s_end(tasks):
    copied = tasks[0]
    converted = Task(copied.source, copied.member, copied.target, lambda content: content, verbatim=False)
    assert not is_complete(copied)
    for content, as_copy, as_png in (
        (CONTENT, True, True),
        (CONTENT[:-1], False, False),
        (b"", False, False),
        (b"x", False, False),
        (CONTENT[:9] + CONTENT[-8:], False, True),
    ):
        copied.target.parent.mkdir(exist_ok=True)
        copied.target.write_bytes(content)
        assert (is_complete(copied), is_complete(converted)) == (as_copy, as_png)


def test_too_small_a_disk_is_named_before_anything_is_written(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: Namespace(free=10))
    with pytest.raises(UserError, match=r"needed, 10 bytes free; make room"):
        carry_out(tasks, link=False)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_named_and_leaves_whole_files(tasks, tmp_path, monkeypatch):
    write = Path.write_bytes

    def fills_up(path: Path, data: bytes) -> int:
        if not path.name.startswith(".100."):
            return write(path, data)
        write(path, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fills_up)
        with pytest.raises(
            UserError, match=r"100.png: no space left on the disk .*make room and run the same command again"
        ):
            carry_out(tasks, link=False)
    found = list((tmp_path / "out").iterdir())
    assert {path.read_bytes() for path in found} == {CONTENT}
    assert not (tmp_path / "out" / "100.png").exists()
    carry_out([task for task in tasks if not is_complete(task)], link=False)
    assert len(list((tmp_path / "out").iterdir())) == len(NAMES)


def test_missing_members_are_counted(tasks):
    members = {task.target.stem: task.member for task in tasks[:100]}
    with pytest.raises(UserError, match="lacks 50 of the 150 files for out, such as that of 100"):
        make_tasks(tasks[0].source, members, NAMES, Path("out"), ".png", check_png)


def test_lists_that_would_conflict_stop_the_work_before_it_begins(tasks, tmp_path):
    (tmp_path / "train.txt").write_text("other\n")
    args = Namespace(target=tmp_path, link=False, dry_run=False, splits_from=None)
    with pytest.raises(UserError, match=r"train.txt: already exists and lists other images"):
        prepare(Plan(tasks=tasks, lists={"train.txt": NAMES}), Layout({}, lambda line: [line]), args)
    assert not (tmp_path / "out").exists()


def test_the_default_folder_is_where_config_looks(monkeypatch):
    def default() -> Path:
        return preparing_parser("", "", "city").parse_args([]).target

    assert default() == Path(__file__).parents[2] / "DATA" / "city"
    monkeypatch.setenv("volna", "/data")
    assert default() == Path("/data/DATA/city")


def test_a_file_of_zeros_is_not_complete(tmp_path):
    """A power failure may leave such a file if it was not flushed."""
    source = open_source(write_folder(tmp_path / "source", {"a.jpg": jpeg(0)}))
    task = Task(source, "a.jpg", tmp_path / "a.jpg", lambda content: content)
    task.target.write_bytes(jpeg(0))
    assert is_complete(task)
    task.target.write_bytes(bytes(len(jpeg(0))))
    assert not is_complete(task)


def test_disk_space_is_needed_only_for_files_that_are_not_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: Namespace(free=10))
    folder = open_source(write_folder(tmp_path / "source", {"a.jpg": jpeg(0)}))
    carry_out(make_tasks(folder, {"a": "a.jpg"}, ["a"], tmp_path / "linked", ".jpg", lambda content: content), True)
    archive = open_source(write_zip(tmp_path / "a.zip", {"a.jpg": jpeg(0)}))
    with pytest.raises(UserError, match="make room"):
        carry_out(make_tasks(archive, {"a": "a.jpg"}, ["a"], tmp_path / "out", ".jpg", lambda content: content), True)
