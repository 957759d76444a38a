"""Files are written completely or not at all."""

import errno
import os
from pathlib import Path

import pytest

from furnace.utils.errors import UserError
from furnace.utils.files import link_atomically, replacing, unfinished, write_atomically, write_together


def test_a_file_is_written_in_new_folders(tmp_path):
    path = tmp_path / "deep" / "er" / "file.bin"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EIO, "can't be")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(number, message, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    write = Path.write_bytes

    def fails(part: Path, data: bytes) -> None:
        write(part, data[:2])
        raise OSError(number, "reason")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(UserError, match=f"file.bin: {message}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.bin", b"new")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(UserError, match="can't be written"):
        write_atomically(tmp_path / "folder" / "file.bin", b"new")


def test_links(tmp_path):
    source, path = tmp_path / "source.bin", tmp_path / "links" / "file.bin"
    source.write_bytes(b"content")
    (tmp_path / "alias").symlink_to(source)
    for original in (source, source, tmp_path / "alias"):
        link_atomically(path, original)
        assert path.samefile(source)
        assert not path.is_symlink()
        assert list(path.parent.iterdir()) == [path]
    write_atomically(path, b"other")
    assert source.read_bytes() == b"content"


def test_a_half_written_file_of_another_process_does_not_get_the_name(tmp_path):
    path = tmp_path / "file"
    first, second = replacing(path), replacing(path)
    first.__enter__().write_bytes(b"whole")
    second.__enter__().write_bytes(b"ha")  # "lf" is not written yet
    first.__exit__(None, None, None)
    assert path.read_bytes() == b"whole"
    assert len(unfinished(tmp_path)) == 1


@pytest.mark.parametrize("name", ["n" * 255, "名" * 85])
def test_the_longest_names_can_be_written(name, tmp_path):
    write_atomically(tmp_path / name, b"content")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_disk_too_full_for_a_folder_is_named(tmp_path, monkeypatch):
    def full(path: Path, *_, **__) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        write_atomically(tmp_path / "new" / "file", b"content")


@pytest.mark.parametrize("refuses", ["open", "fsync"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EIO])
def test_a_folder_is_not_synchronised_if_the_file_system_can_not(tmp_path, monkeypatch, refuses: str, number: int):
    """A failing disk (EIO) remains an error, and files are always synchronised."""
    waited, function = [], getattr(os, refuses)

    def refuse(target, *arguments):
        path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target)
        if path.is_dir():
            raise OSError(number, os.strerror(number), str(path))
        waited.append(path.name)
        return function(target, *arguments)

    monkeypatch.setattr(os, refuses, refuse)
    path = tmp_path / "file.bin"
    if number == errno.EIO:
        with pytest.raises(UserError, match=f"^{path}: can't be written"):
            write_atomically(path, b"new")
    else:
        write_atomically(path, b"new")
        assert len(waited) == 1
    monkeypatch.undo()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("refused", [["link"], ["link", "symlink"]])
def test_without_hard_links_a_symbolic_link_or_a_copy_is_made(tmp_path, monkeypatch, refused: list[str]):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for name in refused:
        monkeypatch.setattr(os, name, refuse)
    source, path = tmp_path / "source.bin", tmp_path / "links" / "file.bin"
    source.write_bytes(b"content")
    link_atomically(path, source)
    assert path.read_bytes() == b"content" and path.is_symlink() == ("symlink" not in refused)
    assert list(path.parent.iterdir()) == [path]


def test_several_files_are_written_or_none(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    write_together(dict.fromkeys(paths, b"old"))
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UserError, match=r"folder.*d\.txt"):
        write_together({**dict.fromkeys(paths, b"new"), tmp_path / "folder" / "d.txt": b"new"})
    assert [path.read_bytes() for path in paths] == [b"old"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt", "folder"]


def test_a_disk_that_allows_nothing_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=r"file\.bin: can't be written \(Read-only file system\)"):
        write_atomically(tmp_path / "file.bin", b"new")
