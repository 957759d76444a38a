"""Read the files of a tar, a zip or a folder through one interface, in their stored order, without extracting them.

Nothing is ever written under a member's name: callers ask for members by pattern and build their own file names.
"""

import hashlib
import re
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from furnace.datasets.folders import walk
from furnace.utils.errors import UserError

MAX_MEMBER_BYTES = 64 * 2**20  # far above every image and label of these data sets; larger members are not read
CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """A member: size in bytes, and `plain` for a file that is neither link nor device."""

    size: int
    plain: bool


class Source(ABC):
    """The files below a folder or inside an archive, by relative names with "/" as separator."""

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the members `names`, in stored order. Raises UserError if the source is damaged."""

    @abstractmethod
    def _entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield every member that is not a folder, with its name in the source."""

    def locate(self, name: str) -> Path | None:
        """The file of a member, as the target of a link; None for an archive."""
        return None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every member by its name. Raises UserError if the source is damaged or contains a name twice."""
        found = {}
        for name, entry in self._entries():
            if (name := inner_name(name)) in found:
                raise UserError(f"{self.path}: contains {name} twice; this is not the official archive")
            found[name] = entry
        return found

    def find(self, pattern: str, limit: int | None = None) -> dict[str, str]:
        """Members whose whole name matches, by the pattern's first group.

        Args:
            pattern: regular expression.
            limit: bytes of a member; by default `MAX_MEMBER_BYTES`.

        Raises:
            UserError: a match is a link, is too large, or has the same first group as another.
        """
        found = {}
        for name, entry in self.entries.items():
            if not (match := re.fullmatch(pattern, name)):
                continue
            if not entry.plain:
                raise UserError(
                    f"{self.path}: {name} is a link or device, not a file; this is not the official archive"
                )
            if entry.size > (limit or MAX_MEMBER_BYTES):
                raise UserError(f"{self.path}: {name} claims {entry.size} bytes; this is not the official archive")
            if match[1] in found:
                raise UserError(f"{self.path}: contains both {found[match[1]]} and {name}; remove one of them")
            found[match[1]] = name
        return found

    def read_text(self, name: str) -> str:
        """A member as UTF-8 text. Raises UserError."""
        try:
            return dict(self.read([name]))[name].decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: {name} is not text; download or copy it again") from error


class TarSource(Source):
    """A tar, compressed or not."""

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        with _damage_named(self.path), tarfile.open(self.path) as tar:
            for info in tar:
                if not info.isdir():
                    yield info.name, Entry(info.size, info.isfile())
            while tar.fileobj.read(CHUNK_BYTES):  # a compressed file's checksum comes at its very end
                pass

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        with _damage_named(self.path), tarfile.open(self.path) as tar:
            while wanted and (info := tar.next()):
                name = inner_name(info.name)
                if name in wanted:
                    wanted.remove(name)
                    yield name, tar.extractfile(tarfile.data_filter(info, self.path.parent)).read()


class ZipSource(Source):
    """A zip."""

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        with _damage_named(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if not info.is_dir():
                    yield info.filename, Entry(info.file_size, stat.S_IFMT(mode) in (0, stat.S_IFREG))

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        with _damage_named(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                name = inner_name(info.filename)
                if name in wanted:
                    with archive.open(info) as member:  # read() alone could unpack more than the member claims
                        yield name, member.read(info.file_size) + member.read(1)


class FolderSource(Source):
    """A folder, including the folders that its links point to."""

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        for path in walk(self.path):
            yield path.relative_to(self.path).as_posix(), Entry(path.stat().st_size, True)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, self.locate(name).read_bytes()
            except OSError as error:
                raise UserError(f"{self.path / name}: can't be read ({error.strerror})") from error

    def locate(self, name: str) -> Path:
        return self.path / name


def open_source(path: str | Path) -> Source:
    """The source at `path`: a folder, a zip, or else a tar. Raises UserError if it does not exist."""
    path = Path(path)
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; see DATA/README.md for the downloads")
    return ZipSource(path) if zipfile.is_zipfile(path) else TarSource(path)


def inner_name(name: str) -> str:
    """A member's name without "./", and with "/" for the backslashes of Windows programs."""
    return str(PurePosixPath(name.replace("\\", "/")))


def published_difference(path: str | Path, md5: str, size: int | None = None) -> str | None:
    """Warning about a file that differs from the published one; None if it is the same, or a folder.

    Args:
        md5: checksum of the published file, hexadecimal.
        size: its size in bytes, if known; files of other sizes need no checksum.
    """
    path = Path(path)
    if not path.is_file():
        return None
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{path.name} has {found} bytes, the published archive has {size}: incomplete, or another version"
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        return f"{path.name} has the md5 {digest.hexdigest()}, the published archive has {md5}"
    return None


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn all exceptions of the archive modules into a UserError of one line."""
    faults = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError)
    try:
        yield
    # The others: an unknown compression, an encrypted member, a failed read, a name that is not text, a position beyond
    # all files.
    except (*faults, NotImplementedError, RuntimeError, OSError, ValueError, OverflowError) as error:
        reason = "".join(str(error).splitlines()[:1]).strip(": ")  # tarfile appends the error of each compression
        raise UserError(
            f"{path}: can't be read as a tar or zip, or is truncated ({reason}); download it again and compare its size"
        ) from error
