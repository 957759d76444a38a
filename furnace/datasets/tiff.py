"""TIFF images as tifffile reads them: the values of the file, whatever its bits, bands, layout and compression."""

from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from furnace.datasets.levels import to_levels
from furnace.datasets.picture import ORIENTATION, no_label
from furnace.utils.errors import UserError
from furnace.utils.terminal import note

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big end first; classic and BigTIFF
MAX_BYTES = 2**31
INVERTED, INDEXED = tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE
INK, LAB, YCBCR = tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.YCBCR


class Tiff:
    """The first image of a TIFF file.

    Args:
        data: content of the file.
        path: where it is from, for messages.

    Attributes:
        size: (width, height) as stored.
        orientation: EXIF orientation, 1 to 8.

    Raises:
        UserError: damaged.
    """

    def __init__(self, data: bytes, path: Path):
        self.data, self.path = data, path
        try:
            with tifffile.TiffFile(BytesIO(data)) as file:
                self.page = file.pages.first
                self.count = len(file.pages)
            self.size = self.page.imagewidth, self.page.imagelength
            self.orientation = self.page.tags.valueof(ORIENTATION) or 1
        except Exception as error:  # from damaged files it raises nearly anything
            raise self._damaged(error) from error

    def values(self) -> np.ndarray:
        """The values of the file, (H, W, bands), of its own type. Raises UserError if they can't be read."""
        page = self.page
        if page.nbytes > MAX_BYTES:
            raise UserError(f"{self.path}: {page.nbytes} bytes of pixels are more than the limit of {MAX_BYTES}")
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError:
            raise UserError(
                f"{self.path}: compressed with {page.compression!r}, which tifffile can't read; compress it with zlib"
            ) from None
        if any(at + count > len(self.data) for at, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
            raise self._damaged("it ends early")
        try:
            with tifffile.TiffFile(BytesIO(self.data)) as file:
                values = file.pages.first.asarray(maxworkers=1)
        except Exception as error:  # as above
            raise self._damaged(error) from error
        if page.axes not in ("YX", "YXS", "SYX"):
            raise UserError(f"{self.path}: has the axes {page.axes}; an image has height, width and bands")
        if self.count > 1:
            note("TIFF files of several images", f"{self.path}: holds {self.count} images; the first is read")
        return np.moveaxis(values, 0, 2) if page.axes == "SYX" else values.reshape(*values.shape[:2], -1)

    def rgb(self) -> np.ndarray:
        """The image as (H, W, 3) uint8. Raises UserError if it can't be read or has values that are no grey levels."""
        values = self.values()
        if self.page.photometric in (INK, LAB) or (self.page.photometric == YCBCR and self.page.compression == 1):
            return self._by_pillow()
        if self.page.photometric == INDEXED:
            return (self.page.colormap >> 8).astype(np.uint8).T[values[..., 0]]
        bits = self.page.bitspersample if values.dtype.kind in "ub" else None
        colours = first_bands(values, self.path)
        levels = to_levels(colours, self.path, None if bits == 16 else bits)
        return np.ascontiguousarray(255 - levels if self.page.photometric == INVERTED else levels)

    def indices(self) -> np.ndarray:
        """The values of a label map (H, W). Raises UserError if they can't be read, or are colours or fractions."""
        values = self.values()
        if values.shape[2] > 1 or values.dtype.kind == "f":
            raise no_label(self.path, f"a TIFF image of {values.shape[2]} bands of {values.dtype}")
        return values[..., 0].astype(np.uint8) if values.dtype == bool else values[..., 0]

    def _by_pillow(self) -> np.ndarray:
        try:
            with Image.open(BytesIO(self.data), formats=["TIFF"]) as image:
                return np.array(image.convert("RGB"))
        except Exception as error:  # as above
            raise self._damaged(error) from error

    def _damaged(self, error: object) -> UserError:
        return UserError(f"{self.path}: can't be decoded; the file is damaged ({' '.join(str(error).split())[:120]})")


def first_bands(values: np.ndarray, path: Path) -> np.ndarray:
    """Red, green and blue (H, W, 3) of the bands (H, W, N): the first three, or the first one three times."""
    bands = values.shape[2]
    used = 3 if bands >= 3 else 1
    if bands > used:
        how = "the first three are read as red, green and blue" if used == 3 else "the first is read as grey"
        note("images of more bands", f"{path}: has {bands} bands; {how}")
    return values[..., :3] if used == 3 else np.repeat(values[..., :1], 3, axis=2)
