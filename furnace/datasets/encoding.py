"""Contents of image and label files, before they are written: checking, decoding and encoding bytes.

All functions raise what their decoder raises over damaged content, or ValueError with the reason.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from furnace.datasets.picture import completed
from furnace.datasets.reading import meaning, wrong_values
from furnace.utils.visualize import Palette, full_palette

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
COLOUR_TYPE = 25  # position of a PNG's colour type, which is one of these
GREY, INDEXED = 0, 3


def check_jpeg(content: bytes) -> bytes:
    """`content` itself. Raises if it can't be decoded to the end."""
    if (whole := completed(content)) is None:
        raise ValueError("a truncated JPEG")
    with Image.open(BytesIO(whole), formats=["JPEG"]) as image:
        image.load()
    return content


def check_png(content: bytes) -> bytes:
    """`content` itself. Raises if it does not begin or end as a PNG does; it is not decoded."""
    if not (content.startswith(PNG_START) and content.endswith(PNG_END)):
        raise ValueError("not a PNG, or a truncated one")
    return content


def decode_indices(content: bytes) -> np.ndarray:
    """A label PNG as (H, W) uint8 of its values; a palette image gives its indices. Raises if it is no such PNG."""
    with Image.open(BytesIO(check_png(content)), formats=["PNG"]) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"a {image.mode} image; a label holds one class index per pixel")
        return np.asarray(image)


def check_values(label: np.ndarray, num_classes: int, reduce_zero_label: bool = False) -> np.ndarray:
    """`label` (H, W) uint8 itself. Raises if a value is neither a class nor unlabelled, see `reading.read_label`."""
    if (wrong := wrong_values(label, num_classes, reduce_zero_label)).size:
        classes, unlabelled = meaning(num_classes, reduce_zero_label)
        raise ValueError(f"label value {wrong[0]} is neither a class ({classes[0]} to {classes[-1]}) nor {unlabelled}")
    return label


def encode_label(label: np.ndarray, palette: Palette | None = None) -> bytes:
    """(H, W) uint8 as a PNG: of indices into `palette`, to look at, or of grey values without one."""
    image = Image.fromarray(label)
    if palette is not None:
        image.putpalette(full_palette(palette).tobytes())
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
