"""Reading images and labels, with every fault named."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, voc_palette
from furnace.datasets.picture import FORMATS, Picture, undecodable
from furnace.datasets.splits import Sample
from furnace.datasets.tiff import STARTS, Tiff
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX

MAX_PIXELS = 2**27  # a larger image is taken for a fault, before memory is asked for; Pillow's own limit is higher
MAX_FILE_BYTES = 2**29  # likewise: even an uncompressed image of MAX_PIXELS is smaller
# Changes when pixels are read otherwise than before.
READER = "2"


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
    """An image as (H, W, 3) uint8 RGB, upright as viewers show it.

    Transparency and bands after the third are left out, with a note; `to_levels` makes bytes of other numbers.

    Raises:
        UserError: it is missing, too large or can't be decoded.
    """
    file = open_image(path)
    return upright(file.rgb(), file.orientation)


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
    """The values of a label map (H, W) as its file holds them, unchecked. Raises UserError as `read_label` does."""
    file = open_image(path)
    return upright(file.indices(), file.orientation)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H, W, ...) of a file as its EXIF orientation, 1 to 8, says how to show them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


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


def open_image(path: Path) -> Picture | Tiff:
    """An image file of which only the header is decoded so far.

    Raises:
        UserError: the file is missing, is not an image, or claims more than `MAX_PIXELS`.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe or device would never end
            raise undecodable(path)
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes are more than the limit of {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the list and C.dataset_path") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    file = Tiff(data, path) if data.startswith(STARTS) else Picture(data, path)
    width, height = file.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    return file


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) as stored. Raises UserError as `open_image` does."""
    try:
        with Image.open(path, formats=FORMATS) as file:  # reads no more than the header
            return file.size
    except Exception:  # it says of damaged files, and of some sound ones, nearly anything
        return open_image(path).size


def likely_cause(values: np.ndarray, num_classes: int) -> str:
    """The usual cause of such label values."""
    greys = {round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in voc_palette(21)}
    if set(values.tolist()) <= greys:
        return "a palette image was probably read as grey values: write the palette's indices"
    if num_classes == len(CITYSCAPES_LABEL_IDS) and values.max() <= max(CITYSCAPES_LABEL_IDS):
        return "the official label ids were probably not converted to train ids"
    return "check C.num_classes and how the labels were made"
