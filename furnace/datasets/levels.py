"""Grey levels of any number type as bytes."""

from pathlib import Path

import numpy as np

from furnace.utils.errors import UserError
from furnace.utils.terminal import note

DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and scanners
WHITE = 255


def to_levels(values: np.ndarray, path: Path, bits: int | None = None) -> np.ndarray:
    """Values of any type as levels from 0 to 255, uint8.

    Whole numbers are scaled by the bits that they use, fractions by 255.

    Args:
        values: of any shape.
        path: of their file, for messages.
        bits: of the values, according to the file; None to use the smallest of `DEPTHS` that is sufficient.

    Raises:
        UserError: the values are not grey levels: negative, not finite, or too large.
    """
    if values.dtype == np.uint8 and bits in (None, 8):
        return values
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == "f":
        return _fractions(values, float(low), float(high), path)
    if values.dtype.kind not in "biu" or low < 0 or high >= 2 ** DEPTHS[-1]:
        raise _refused(path, low, high)
    if bits is None:
        bits = next(depth for depth in DEPTHS if high < 2**depth)
        note("images of 16 bits", f"{path}: 16 bits, of which {bits} are used; each image is scaled by its used bits")
    if bits <= 8:
        return (values.astype(np.uint16) * WHITE // (2**bits - 1)).astype(np.uint8)
    return (values >> (bits - 8)).astype(np.uint8)


def _fractions(values: np.ndarray, low: float, high: float, path: Path) -> np.ndarray:
    if not (low >= 0 and high <= WHITE):  # nor NaN
        raise _refused(path, low, high)
    return np.rint(values * (WHITE if high <= 1 else 1)).astype(np.uint8)


def _refused(path: Path, low: object, high: object) -> UserError:
    return UserError(
        f"{path}: values from {low:g} to {high:g} are not grey levels (0 to 1, 255 or 65535); scale them to 8 bits"
    )
