"""Decoded images and labels in memory-mapped files, so that training reads pixels instead of decoding files.

Each image has its own file: a header with the identity of its source, its shape and a checksum, then the pixels.
Files are written completely or not at all, and files that don't match their source or checksum are decoded again, so
any number of processes may share a folder. The cache in memory is also such a folder, on a file system in memory.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import prod
from pathlib import Path

import cv2
import numpy as np
import PIL
import tifffile

from furnace.datasets.cache_folder import OFF, free_bytes, hold, writing
from furnace.datasets.reading import READER, Files, image_size, read_image, read_label
from furnace.utils.errors import UserError
from furnace.utils.files import unfinished, write_atomically
from furnace.utils.progress import parallel
from furnace.utils.wording import byte_size

# Magic, decoder, height, width, channels (0 for labels), checksum of the pixels, identity of the source.
HEADER = struct.Struct("<8s5I3qQ4x")
MAGIC = b"decoded2"
# Other versions may decode JPEG files to slightly different pixels.
DECODER = zlib.crc32(f"{READER} {cv2.__version__} {PIL.__version__} {tifffile.__version__}".encode())
RESERVE = 2**28  # bytes to leave free


@dataclass(frozen=True)
class Source:
    """One cached file: an image or label, its decoder, and the name of its entry."""

    path: Path
    entry: str
    channels: int
    decode: Callable[[], np.ndarray]

    def identity(self) -> tuple[int, int, int, int] | None:
        """Size, times of the last change of content and of name, and number of a file; None if it does not exist."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino

    def decoded_bytes(self) -> int:
        """Size of the entry, 0 if the file can't be read."""
        try:
            width, height = image_size(self.path)
        except UserError:
            return 0
        return HEADER.size + width * height * max(self.channels, 1)


class Cache(Files):
    """Images and labels that are decoded once and then mapped read-only.

    Args:
        num_classes, reduce_zero_label: as for `Files`.
        folder: contains the entries; `prepare` creates it.
        keep: False if the last process that uses the folder removes it.
    """

    def __init__(self, num_classes: int, folder: Path, keep: bool = True, reduce_zero_label: bool = False):
        super().__init__(num_classes, reduce_zero_label)
        self.folder, self.keep = folder, keep
        self.identities: dict[Path, tuple[int, int, int, int] | None] = {}
        self.checked: set[str] = set()

    def image(self, path: Path) -> np.ndarray:
        return self._pixels(self._image_source(path))

    def label(self, path: Path) -> np.ndarray:
        return self._pixels(self._label_source(path))

    def prepare(self, images: Iterable[Path], labels: Iterable[Path], skip_unreadable: bool = False) -> None:
        """Decode files that are not in the folder yet. Several processes may call it: one works, the others wait.

        Raises:
            UserError: too little space, or, unless `skip_unreadable`, a missing or wrong image or label.
        """
        sources = self._sources(images, labels)
        self.identities = {source.path: source.identity() for source in sources}
        if not self.keep:
            hold(self, self.folder, {source.entry for source in sources})
        if self._missing(sources):
            with writing(self.folder):
                for path in unfinished(self.folder):
                    path.unlink(missing_ok=True)
                self._fill(self._missing(sources), skip_unreadable)

    def missing_bytes(self, images: Iterable[Path], labels: Iterable[Path]) -> int:
        """Bytes that `prepare` would write."""
        return decoded_bytes(self._missing(self._sources(images, labels)))

    def _sources(self, images: Iterable[Path], labels: Iterable[Path]) -> list[Source]:
        return [*map(self._image_source, dict.fromkeys(images)), *map(self._label_source, dict.fromkeys(labels))]

    def _missing(self, sources: list[Source]) -> list[Source]:
        return [source for source in sources if self._map(source) is None]

    def _image_source(self, path: Path) -> Source:
        return Source(path, entry_name("image", path), 3, lambda: read_image(path))

    def _label_source(self, path: Path) -> Source:
        # An entry contains checked labels, and the check depends on the number of classes and the meaning of 0.
        kind = f"label of {self.num_classes} classes" + ", 0 reduced" * self.reduce_zero_label
        decode = partial(read_label, path, self.num_classes, self.reduce_zero_label)
        return Source(path, entry_name(kind, path), 0, decode)

    def _fill(self, missing: list[Source], skip_unreadable: bool) -> None:
        needed, free = decoded_bytes(missing), free_bytes(self.folder)
        if needed + RESERVE > free:
            raise UserError(
                f"{self.folder}: C.cache needs {byte_size(needed)} for {len(missing)} files and "
                f"{byte_size(free)} are free there; make room, name another folder, or set C.cache = {OFF}"
            )
        parallel(lambda source: self._enter(source, skip_unreadable), missing, "filling the cache")

    def _enter(self, source: Source, skip_unreadable: bool) -> None:
        try:
            pixels = source.decode()
        except UserError:
            if skip_unreadable:
                return  # its reader reports the error
            raise
        self._write(source, pixels)

    def _pixels(self, source: Source) -> np.ndarray:
        pixels = self._load(source)
        if pixels is not None:
            return pixels
        pixels = source.decode()
        # If the cache can't be repaired, as on a full disk, the run continues without it.
        with suppress(UserError), writing(self.folder, wait=False) as alone:
            if alone:
                self._write(source, pixels)
        return pixels

    def _load(self, source: Source) -> np.ndarray | None:
        mapped = self._map(source)
        if mapped is None:
            return None
        checksum, pixels = mapped
        # Checked once per process; later, only the pixels of a crop are read.
        if source.entry not in self.checked:
            if zlib.crc32(pixels) != checksum:
                return None
            self.checked.add(source.entry)
        return pixels

    def _map(self, source: Source) -> tuple[int, np.ndarray] | None:
        """Checksum and pixels of an entry, read-only; None if it is missing, stale or of a wrong size."""
        identity = self.identities.get(source.path) or source.identity()
        try:
            with open(self.folder / source.entry, "rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, decoder, height, width, channels, checksum, *of_source = HEADER.unpack_from(content)
        except (OSError, ValueError, struct.error):
            return None
        shape = (height, width, channels) if channels else (height, width)
        fits = (magic, decoder, channels, tuple(of_source)) == (MAGIC, DECODER, source.channels, identity)
        if not fits or len(content) != HEADER.size + prod(shape):
            return None
        return checksum, np.frombuffer(content, dtype=np.uint8, offset=HEADER.size).reshape(shape)

    def _write(self, source: Source, pixels: np.ndarray) -> None:
        checksum = zlib.crc32(np.ascontiguousarray(pixels))
        identity = self.identities.get(source.path) or source.identity()
        header = HEADER.pack(MAGIC, DECODER, *pixels.shape[:2], source.channels, checksum, *identity)
        # The checksum finds entries that a power failure left incomplete.
        write_atomically(self.folder / source.entry, header + pixels.tobytes(), flush=False)


def entry_name(kind: str, path: Path) -> str:
    """File name of an entry, computed from the file's path and kind, not from its content."""
    return sha256(f"{kind} {os.path.abspath(path)}".encode()).hexdigest()[:32]


def decoded_bytes(sources: list[Source]) -> int:
    """Size of the entries of all sources."""
    return sum(parallel(Source.decoded_bytes, sources))
