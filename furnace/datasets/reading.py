"""Reading images and labels, with every fault named."""

import struct
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, voc_palette
from furnace.datasets.splits import Sample
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX

MAX_PIXELS = 2**27  # a larger image is taken for a fault, before memory is asked for; Pillow's own limit is higher
MAX_FILE_BYTES = 2**29  # likewise: even an uncompressed image of MAX_PIXELS is smaller
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # Pillow would hand others to outside programs
# What Pillow raises over damaged files.
DAMAGED = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error)


class Files:
    """Images and labels of a data set with `num_classes` classes, decoded at each call."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def prepare(self, images: Iterable[Path], labels: Iterable[Path], skip_unreadable: bool = False) -> None:
        """Prepare the images and labels of a run, once, before worker processes start."""

    def image(self, path: Path) -> np.ndarray:
        """As `read_image`."""
        return read_image(path)

    def label(self, path: Path) -> np.ndarray:
        """As `read_label`."""
        return read_label(path, self.num_classes)

    def pair(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a sample. Raises UserError, also where their sizes differ."""
        image, label = self.image(sample.image), self.label(sample.label)
        check_sizes(sample, image.shape[:2], label.shape)
        return image, label


def read_image(path: Path) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB. Raises UserError if it is missing, too large or can't be decoded."""
    data, _ = open_image(path)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or is_cut_off(data):
        raise undecodable(path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_label(path: Path, num_classes: int) -> np.ndarray:
    """A label map as (H, W) uint8 of classes below `num_classes` and 255; palette images give their indices.

    Raises:
        UserError: missing, can't be decoded, a colour image, or a value that is neither a class nor 255.
    """
    return check_values(decode_label(path), num_classes, path)


def check_values(label: np.ndarray, num_classes: int, path: Path) -> np.ndarray:
    """The label map of `path` as uint8. Raises UserError if a value is neither a class nor 255."""
    if (values := wrong_values(label, num_classes)).size:
        raise UserError(
            f"{path}: label value {values[0]} is neither a class (C.num_classes = {num_classes}: 0 to "
            f"{num_classes - 1}) nor {IGNORE_INDEX}; "
            f"{likely_cause(values, num_classes)}"
        )
    return label.astype(np.uint8, copy=False)


def wrong_values(label: np.ndarray, num_classes: int) -> np.ndarray:
    """The values (n,) of a label map (H, W) that are neither classes nor 255, sorted."""
    return np.unique(label[((label < 0) | (label >= num_classes)) & (label != IGNORE_INDEX)])


def decode_label(path: Path) -> np.ndarray:
    """The values of a label map (H, W), unchecked. Raises UserError as `read_label` does otherwise."""
    _, file = open_image(path)
    if file.mode not in ("L", "P", "1", "I;16", "I"):
        raise UserError(
            f"{path}: a label must hold one class index a pixel, this is a {file.mode} image; convert its colours"
        )
    try:
        return np.array(file)
    except DAMAGED as error:
        raise undecodable(path) from error


def read_pair(sample: Sample, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a sample. Raises UserError, also where their sizes differ."""
    return Files(num_classes).pair(sample)


def check_sizes(sample: Sample, image_size: tuple[int, int], label_size: tuple[int, int]) -> None:
    """Raise UserError unless image and label have the same height and width."""
    if image_size != label_size:
        (height, width), (label_height, label_width) = image_size, label_size
        raise UserError(
            f"{sample.label}: {label_width}x{label_height} pixels, but its image {sample.image} has {width}x{height}"
        )


def open_image(path: Path) -> tuple[bytes, Image.Image]:
    """Content of an image file, and its image: only the header is decoded so far.

    Raises:
        UserError: the file is missing, is not an image, or claims more than `MAX_PIXELS`.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe or device would never end
            raise undecodable(path)
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes are more than the limit of {MAX_FILE_BYTES}")
        data = path.read_bytes()
        image = Image.open(BytesIO(data), formats=FORMATS)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the list and C.dataset_path") from None
    except DAMAGED as error:
        raise undecodable(path) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    return data, image


def undecodable(path: Path) -> UserError:
    """Message about a file that can't be decoded."""
    return UserError(f"{path}: can't be decoded; the file is damaged or no image")


def is_cut_off(data: bytes) -> bool:
    """True if a JPEG file ends before its image does; older OpenCV fills the rest with grey."""
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    # A segment may hold a whole thumbnail: FFD9 means the image's end only after all segments.
    return data[at : at + 2] == b"\xff\xda" and data.find(b"\xff\xd9", at) < 0


def likely_cause(values: np.ndarray, num_classes: int) -> str:
    """The usual cause of such label values."""
    greys = {round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in voc_palette(21)}
    if set(values.tolist()) <= greys:
        return "a palette image was probably read as grey values: write the palette's indices"
    if num_classes == len(CITYSCAPES_LABEL_IDS) and values.max() <= max(CITYSCAPES_LABEL_IDS):
        return "the official label ids were probably not converted to train ids"
    return "check C.num_classes and how the labels were made"
