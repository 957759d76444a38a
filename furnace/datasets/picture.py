"""Decode PNG, JPEG and other common images to the values in their files, with OpenCV and Pillow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from PIL import Image

from furnace.datasets.levels import to_levels
from furnace.utils.errors import UserError
from furnace.utils.terminal import note

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF", "AVIF")  # Pillow would pass others to external programs
BY_OPENCV = ("PNG", "JPEG", "MPO", "BMP", "WEBP")
ANIMATED = ("GIF", "WEBP", "AVIF", "PNG")
TRANSPARENT = ("RGBA", "LA", "PA")
ORIENTATION = 274  # EXIF tag
PNG_BITS = 24  # position of the bits per sample
JPEG_START, JPEG_END, SCAN, PROGRESSIVE = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc2"
FILLER = b"\x55\xaa" * 64
# What may follow a complete image without changing it, here or after each of the eight restart markers.
FILLERS = (FILLER, *(bytes([0xFF, 0xD0 + number]) + FILLER for number in range(8)))
SUMMED = (b"IHDR", b"PLTE", b"IDAT")
PNG_START = b"\x89PNG\r\n\x1a\n"


class Picture:
    """An image file that OpenCV or Pillow can read; at first only its header is decoded.

    Args:
        data: content of the file.
        path: of the file, for messages.

    Attributes:
        size: (width, height) as stored.

    Raises:
        UserError: the file is damaged or not an image.
    """

    def __init__(self, data: bytes, path: Path):
        self.data, self.path = data, path
        with damage_named(path):
            self.header = opened(BytesIO(data), FORMATS)
        self.size = self.header.size

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8; 1 if it can't be read, as in viewers: the pixels may be intact."""
        # Pillow would decode the whole image in search of a PNG's EXIF data.
        if self.header.format == "PNG" and b"eXIf" not in self.data:
            return 1
        try:
            return self.header.getexif().get(ORIENTATION, 1)
        except Exception:  # as in `damage_named`
            return 1

    def rgb(self) -> np.ndarray:
        """The image as (H, W, 3) uint8 without its transparency. Raises UserError if it can't be decoded."""
        header = self.header
        if header.mode in TRANSPARENT or "transparency" in header.info:
            note("transparent images", f"{self.path}: is read without its transparency")
        if header.format in ANIMATED:
            with damage_named(self.path):
                count = header.n_frames
            if count > 1:
                note("animated images", f"{self.path}: the first of {count} frames is read")
        if header.format == "PNG" and self.data[PNG_BITS] == 16:
            return to_levels(self._by_opencv(cv2.IMREAD_UNCHANGED), self.path)
        if header.mode.startswith("I"):  # a PGM of 16 bits
            return np.repeat(to_levels(self._by_pillow(None), self.path)[..., None], 3, axis=2)
        if header.format in BY_OPENCV and header.mode != "CMYK":
            return self._by_opencv(cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return self._by_pillow("RGB")

    def indices(self) -> np.ndarray:
        """The values of a label map (H, W). Raises UserError if it can't be decoded, or has colours or lossy values."""
        header = self.header
        if header.mode not in ("L", "P", "1", "I;16", "I"):
            raise no_label(self.path, f"an image of mode {header.mode}")
        if header.format == "JPEG":
            raise UserError(f"{self.path}: a JPEG changes the values of labels; write them as PNG")
        if header.format == "PPM" and header.tile[0].codec_name != "raw":
            raise UserError(f"{self.path}: its values would be scaled by its maximum; write labels as PNG")
        values = self._by_pillow(None)
        if header.format == "PNG" and header.mode == "L":
            # Pillow scales levels of fewer than 8 bits to 255.
            values //= 255 // (2 ** self.data[PNG_BITS] - 1)
        return values.astype(np.uint8) if header.mode == "1" else values

    def _complete(self) -> bytes:
        if (data := completed(self.data)) is None:
            raise undecodable(self.path)
        return data

    def _by_opencv(self, flags: int) -> np.ndarray:
        """RGB (H, W, 3) in the file's own type; grey levels become colours, a fourth band is dropped."""
        with damage_named(self.path):
            image = cv2.imdecode(np.frombuffer(self._complete(), dtype=np.uint8), flags)
        if image is None:
            raise undecodable(self.path)
        if image.ndim == 2:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if image.shape[2] == 4:
            return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)

    def _by_pillow(self, mode: str | None) -> np.ndarray:
        with damage_named(self.path), opened(BytesIO(self._complete()), FORMATS) as image:
            if image.format == "PNG":
                check_sums(self.data)
            return np.array(image.convert(mode) if mode else image)


def opened(file: BytesIO | Path, formats: Sequence[str]) -> Image.Image:
    """An image file opened by Pillow without its limit of pixels: `open_image` has one of its own, and names it."""
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(file, formats=formats)


def undecodable(path: Path) -> UserError:
    """Message about a file that can't be decoded."""
    return UserError(f"{path}: can't be decoded; the file is damaged or not an image")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn every exception into one line about a damaged file: decoders raise various exceptions for such files."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise undecodable(path) from error


def no_label(path: Path, what: str) -> UserError:
    """Message about an image that can't be a label map."""
    return UserError(
        f"{path}: a label must contain one class index per pixel, this is {what}; docs/own-dataset.md converts colours"
    )


def completed(data: bytes) -> bytes | None:
    """The content of a file; a JPEG that lacks only its end marker gets one. None for a JPEG that lacks pixels.

    Decoders would fill the missing pixels with grey.
    """
    if not data.startswith(JPEG_START):
        return data
    at, progressive = len(JPEG_START), False
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != SCAN[1:]:
        progressive |= data[at : at + 2] == PROGRESSIVE
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    # A segment may contain a whole thumbnail: FFD9 means the image's end only after all segments.
    if data[at : at + 2] != SCAN or data.find(JPEG_END, at) >= 0:
        return data
    if progressive:
        return None  # whole scans may be missing
    data = data.rstrip(b"\0\xff")  # half of the marker, or space that a download has reserved
    found = decode_jpeg(data + JPEG_END)
    if found is None or any(not np.array_equal(found, decode_jpeg(data + more + JPEG_END)) for more in FILLERS):
        return None
    return data + JPEG_END


def check_sums(png: bytes) -> None:
    """Raise ValueError if a checksum of a PNG's pixels or palette is wrong: Pillow compares none of the pixels' sums.

    Its `verify` refuses files with damaged comments, too.
    """
    at = len(PNG_START)
    while at + 8 <= len(png) and (kind := png[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if kind in SUMMED and png[end : end + 4] != crc32(png[at + 4 : end]).to_bytes(4, "big"):
            raise ValueError(f"wrong checksum of {kind.decode()}")
        at = end + 4


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """A JPEG image decoded by Pillow, which fills missing pixels silently; None if it can't be decoded."""
    try:
        with opened(BytesIO(data), ["JPEG"]) as image:
            return np.array(image)
    except Exception:  # as in `damage_named`
        return None
