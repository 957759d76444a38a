"""Archives: all formats give the same contents, and hostile or damaged ones are refused."""

import hashlib
import io
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets import archives
from furnace.datasets.archives import CHUNK_BYTES, FolderSource, TarSource, ZipSource, open_source, published_difference
from furnace.utils.errors import UserError
from tests.official_archives import write_folder, write_tar, write_zip

MEMBERS = {"set/a.txt": b"one\n", "set/deep/b.png": bytes(range(256)) * 20, "c.txt": b""}
WRITERS = {"a.tar": write_tar, "a.tgz": write_tar, "a.zip": write_zip, "a": write_folder}


@pytest.fixture(params=WRITERS)
def source(request, tmp_path: Path) -> archives.Source:
    return open_source(WRITERS[request.param](tmp_path / request.param, MEMBERS))


def test_names_sizes_and_contents(source):
    assert {name: entry.size for name, entry in source.entries.items()} == {n: len(c) for n, c in MEMBERS.items()}
    assert dict(source.read(list(MEMBERS))) == MEMBERS
    assert dict(source.read(["c.txt"])) == {"c.txt": b""}
    assert source.read_text("set/a.txt") == "one\n"


def test_find_matches_whole_names_only(source):
    assert source.find(r"set/(?:.*/)?(\w)\.\w+") == {"a": "set/a.txt", "b": "set/deep/b.png"}
    assert source.find(r"(a)\.txt") == {}


def test_the_form_is_recognised(tmp_path):
    kinds = {"a.tar": TarSource, "a.tgz": TarSource, "a.zip": ZipSource, "a": FolderSource}
    for name, kind in kinds.items():
        assert type(open_source(WRITERS[name](tmp_path / name, MEMBERS))) is kind
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(tmp_path / "missing.tar")


def test_only_folders_can_be_linked_to(source):
    located = source.locate("set/a.txt")
    assert (located is not None) == isinstance(source, FolderSource)
    assert located is None or located.read_bytes() == MEMBERS["set/a.txt"]


NAMES = st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4}){0,2}\.[a-z]{3}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=6), st.data())
def test_any_members_read_alike_in_every_form(members, data):
    wanted = data.draw(st.sets(st.sampled_from(sorted(members))))
    with tempfile.TemporaryDirectory() as folder:
        for name, write in WRITERS.items():
            source = open_source(write(Path(folder) / name, members))
            assert dict(source.read(wanted)) == {n: c for n, c in members.items() if n in wanted}
            assert set(source.entries) == set(members)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_if_requested(kind, tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("set/link.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    source = open_source(path)
    assert source.find(r"set/(a)\.txt")
    with pytest.raises(UserError, match=r"set/link.txt is a link or device"):
        source.find(r"set/(\w+)\.txt")


def test_a_link_in_a_zip_is_refused_if_requested(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("set/link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"set/link.txt is a link or device"):
        open_source(path).find(r"set/(\w+)\.txt")


def test_a_member_that_claims_too_much_is_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(UserError, match=r"set/deep/b.png claims 5120 bytes"):
        open_source(path).find(r"set/deep/(b)\.png")


def test_a_huge_claimed_size_takes_no_memory(tmp_path):
    info = tarfile.TarInfo("set/a.txt")
    info.size = 2**50
    (tmp_path / "a.tar").write_bytes(info.tobuf() + b"few bytes")
    with pytest.raises(UserError):
        open_source(tmp_path / "a.tar").find(r"set/(a)\.txt")


def test_long_names_within_the_limit_are_read(tmp_path):
    members = {f"{'d/' * 200}{i}.txt": bytes([i]) for i in range(3)}
    for form, written in ((tarfile.GNU_FORMAT, "gnu.tar"), (tarfile.PAX_FORMAT, "pax.tar")):
        with tarfile.open(tmp_path / written, "w", format=form, pax_headers={"comment": "é" * 500}) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1.5
                tar.addfile(info, io.BytesIO(content))
        source = open_source(tmp_path / written)
        assert dict(source.read(source.entries)) == members


def test_duplicate_members_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("./c.txt"), io.BytesIO())
    with pytest.raises(UserError, match=r"contains c.txt twice"):
        open_source(path).find(r"(c)\.txt")
    source = open_source(write_folder(tmp_path / "copies", {"one/a.txt": b"", "two/a.txt": b""}))
    with pytest.raises(UserError, match=r"both one/a.txt and two/a.txt"):
        source.find(r"\w+/(a)\.txt")


@pytest.mark.parametrize("form", ["a.tar", "a.tgz", "a.zip"])
def test_truncated_and_damaged_archives_are_read_correctly_or_refused(form, tmp_path):
    path = WRITERS[form](tmp_path / form, MEMBERS)
    whole = path.read_bytes()
    step = max(1, len(whole) // 60)
    for at in range(0, len(whole), step):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(content)
            source = open_source(path)
            try:
                read = dict(source.read(source.find(r"(set/\w+.*)\.\w+").values()))
            except UserError as error:
                assert str(path) in str(error)
            else:
                # A tar has no checksum of its contents; damage is detected when they are decoded.
                assert set(read) <= set(MEMBERS) or form == "a.tar"
                assert form == "a.tar" or all(MEMBERS[name] == content for name, content in read.items())


def test_a_list_that_is_not_text_is_named(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", {"list.txt": b"\xff\xfe\x00"}))
    with pytest.raises(UserError, match=r"list.txt is not text"):
        source.read_text("list.txt")


def test_links_in_a_folder_are_followed_and_circles_end(tmp_path):
    write_folder(tmp_path / "elsewhere", {"a.txt": b"one"})
    folder = write_folder(tmp_path / "data", {"b.txt": b"two"})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    (folder / "broken.txt").symlink_to(tmp_path / "nowhere")
    assert set(open_source(folder).entries) == {"b.txt", "linked/a.txt"}


def test_a_file_that_vanishes_is_named(tmp_path):
    source = open_source(write_folder(tmp_path / "data", {"b.txt": b"two"}))
    assert source.entries
    (tmp_path / "data" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b.txt: can't be read"):
        dict(source.read(["b.txt"]))


def test_published_difference(tmp_path):
    path = tmp_path / "archive.tar"
    path.write_bytes(b"content")
    right = hashlib.md5(b"content").hexdigest()
    assert published_difference(path, right) is None
    assert published_difference(path, right, 7) is None
    assert published_difference(tmp_path, "0" * 32, 7) is None
    assert "has 7 bytes, the published archive has 8" in published_difference(path, right, 8)
    assert f"has the md5 {right}" in published_difference(path, "0" * 32, 7)


def test_a_small_zip_that_unpacks_to_more_than_it_claims_takes_little_memory(tmp_path):
    path, true, claimed = tmp_path / "a.zip", 64 * CHUNK_BYTES, 100
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a.png", bytes(true))
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.rindex(magic) + offset
        assert struct.unpack_from("<I", content, at) == (true,)
        struct.pack_into("<I", content, at, claimed)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="can't be read"):
            dict(open_source(path).read(["set/a.png"]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * CHUNK_BYTES


def test_a_zip_with_backslashes_reads_like_any_other(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.filename = name.replace("/", "\\")
            archive.writestr(info, content)
    source = open_source(tmp_path / "a.zip")
    assert source.find(r"set/(?:deep/)?(\w+)\.\w+") == {"a": "set/a.txt", "b": "set/deep/b.png"}
    assert dict(source.read(MEMBERS)) == MEMBERS
