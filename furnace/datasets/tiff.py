"""Read the values of TIFF images with tifffile, for all numbers of bits and bands, layouts and compressions."""

import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile

from furnace.datasets.levels import to_levels
from furnace.datasets.picture import ORIENTATION, damage_named, no_label, opened
from furnace.utils.errors import UserError
from furnace.utils.terminal import note

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian; classic TIFF and BigTIFF
MAX_BYTES = 2**31
INVERTED, INDEXED = tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE
INK, LAB, YCBCR = tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.YCBCR


class Tiff:
    """The first image of a TIFF file.

    Args:
        data: content of the file.
        path: of the file, for messages.

    Attributes:
        size: (width, height) as stored.
        converted: True if Pillow converts the colours to RGB.
        orientation: EXIF orientation of the pixels that this class gives, 1 to 8.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, data: bytes, path: Path):
        self.data, self.path = data, path
        tifffile.logger().setLevel(logging.CRITICAL)  # we report damaged files ourselves, in one line
        with damage_named(path), tifffile.TiffFile(BytesIO(data)) as file:
            self.page = file.pages.first
            self.count = len(file.pages)
            self.size = int(self.page.imagewidth), int(self.page.imagelength)
            kind, plain = self.page.photometric, self.page.compression == 1
            self.converted = kind in (INK, LAB) or (kind == YCBCR and plain)
            # Pillow turns the pixels.
            self.orientation = 1 if self.converted else int(self.page.tags.valueof(ORIENTATION) or 1)

    def values(self) -> np.ndarray:
        """The values of the file, (H, W, bands), in its own type. Raises UserError if they can't be read."""
        page = self.page
        with damage_named(self.path):
            self._check()
            with tifffile.TiffFile(BytesIO(self.data)) as file:
                values = file.pages.first.asarray(maxworkers=1)
            if not values.size:
                raise ValueError("no pixels")
        if page.axes not in ("YX", "YXS", "SYX"):
            raise UserError(f"{self.path}: has the axes {page.axes}; an image has height, width and bands")
        if self.count > 1:
            note("TIFF files of several images", f"{self.path}: contains {self.count} images; the first is read")
        return np.moveaxis(values, 0, 2) if page.axes == "SYX" else values.reshape(*values.shape[:2], -1)

    def _check(self) -> None:
        """Raise for a file that is too large, ends early, or has a compression that the reader lacks."""
        page = self.page
        if page.nbytes > MAX_BYTES:
            raise UserError(f"{self.path}: {page.nbytes} bytes of pixels are more than the limit of {MAX_BYTES}")
        if any(at + count > len(self.data) for at, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
            raise EOFError("it ends early")
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError:
            raise UserError(
                f"{self.path}: compressed with {page.compression!r}, which tifffile can't read; compress it with zlib"
            ) from None

    def rgb(self) -> np.ndarray:
        """The image as (H, W, 3) uint8. Raises UserError if it can't be read or its values are not grey levels."""
        if self.converted:
            with damage_named(self.path), opened(BytesIO(self.data), ["TIFF"]) as image:
                return np.array(image.convert("RGB"))
        kind, values = self.page.photometric, self.values()
        if kind == INDEXED:
            with damage_named(self.path):
                return (self.page.colormap >> 8).astype(np.uint8).T[values[..., 0]]
        bits = self.page.bitspersample if values.dtype.kind in "ub" else None
        levels = to_levels(first_bands(values, self.path), self.path, None if bits is not None and bits >= 16 else bits)
        return np.ascontiguousarray(255 - levels if kind == INVERTED else levels)

    def indices(self) -> np.ndarray:
        """The values of a label map (H, W). Raises UserError if they can't be read, or are colours or fractions."""
        values = self.values()
        if values.shape[2] > 1 or values.dtype.kind not in "biu":
            raise no_label(self.path, f"a TIFF image of {values.shape[2]} bands of {values.dtype}")
        return values[..., 0].astype(np.uint8) if values.dtype == bool else values[..., 0]


def tiff_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of a TIFF file as stored, from its header; None if it is no TIFF, or damaged."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return int(page.imagewidth), int(page.imagelength)
    except Exception:  # as in `damage_named`
        return None


def first_bands(values: np.ndarray, path: Path) -> np.ndarray:
    """Red, green and blue (H, W, 3) from the bands (H, W, N): the first three, or the first one three times."""
    bands = values.shape[2]
    used = 3 if bands >= 3 else 1
    if bands > used:
        how = "the first three are read as red, green and blue" if used == 3 else "the first is read as grey"
        note("images of more bands", f"{path}: has {bands} bands; {how}")
    return values[..., :3] if used == 3 else np.repeat(values[..., :1], 3, axis=2)
