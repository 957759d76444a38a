"""Check, decode and encode the contents of image and label files before they are written.

For damaged content, all functions raise the exceptions of their decoders, or ValueError with the reason.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from furnace.datasets.picture import PNG_START, check_sums, completed
from furnace.datasets.reading import meaning, wrong_values
from furnace.utils.visualize import Palette, full_palette

PNG_END = b"IEND\xaeB`\x82"
COLOUR_TYPE = 25  # position of a PNG's colour type, which is one of these
GREY, INDEXED = 0, 3


def check_jpeg(content: bytes) -> bytes:
    """Return `content` unchanged. Raises if it can't be decoded completely."""
    if (whole := completed(content)) is None:
        raise ValueError("a truncated JPEG")
    with Image.open(BytesIO(whole), formats=["JPEG"]) as image:
        image.load()
    return content


def check_png(content: bytes) -> bytes:
    """Return `content` unchanged, without decoding it. Raises if it does not start and end like a PNG."""
    if not (content.startswith(PNG_START) and content.endswith(PNG_END)):
        raise ValueError("not a PNG, or a truncated one")
    return content


def decode_indices(content: bytes) -> np.ndarray:
    """The values of a label PNG, (H, W) uint8; indices for palette images. Raises if it is not such a PNG."""
    with Image.open(BytesIO(check_png(content)), formats=["PNG"]) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"a {image.mode} image; a label contains one class index per pixel")
        check_sums(content)
        return np.asarray(image)


def require_values(label: np.ndarray, num_classes: int, reduce_zero_label: bool = False) -> np.ndarray:
    """Return `label` (H, W) uint8 unchanged. Raises if a value is neither a class nor unlabelled, see `read_label`."""
    if (wrong := wrong_values(label, num_classes, reduce_zero_label)).size:
        classes, unlabelled = meaning(num_classes, reduce_zero_label)
        raise ValueError(f"label value {wrong[0]} is neither a class ({classes[0]} to {classes[-1]}) nor {unlabelled}")
    return label


def encode_label(label: np.ndarray, palette: Palette | None = None) -> bytes:
    """Encode a label (H, W) uint8 as a PNG: indices into `palette`, or grey values without one."""
    image = Image.fromarray(label)
    if palette is not None:
        image.putpalette(full_palette(palette).tobytes())
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
