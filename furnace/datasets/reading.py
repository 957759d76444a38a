"""Read images and labels, with a message for every fault."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, voc_palette
from furnace.datasets.picture import FORMATS, Picture, opened, undecodable
from furnace.datasets.splits import Sample
from furnace.datasets.tiff import STARTS, Tiff, tiff_size
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings

MAX_PIXELS = 2**27  # larger images are refused before memory is allocated
MAX_FILE_BYTES = 2**29  # likewise: even an uncompressed image of MAX_PIXELS is smaller
# To be changed if files are read to other pixels than before.
READER = "2"


class Files:
    """Images and labels of a data set, decoded at each call; the arguments are those of `read_label`."""

    def __init__(self, num_classes: int, reduce_zero_label: bool = False):
        self.num_classes, self.reduce_zero_label = num_classes, reduce_zero_label

    def prepare(self, images: Iterable[Path], labels: Iterable[Path], skip_unreadable: bool = False) -> None:
        """Prepare the images and labels of a run, once, before worker processes start."""

    def image(self, path: Path) -> np.ndarray:
        """As `read_image`."""
        return read_image(path)

    def label(self, path: Path) -> np.ndarray:
        """As `read_label`."""
        return read_label(path, self.num_classes, self.reduce_zero_label)

    def pair(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a sample. Raises UserError, also if their sizes differ."""
        image, label = self.image(sample.image), self.label(sample.label)
        check_sizes(sample, image.shape[:2], label.shape)
        return image, label


def build_reader(C: Settings) -> Files:
    """The reader of the settings, which decodes images and labels at each call."""
    return Files(C.num_classes, C.reduce_zero_label)


def read_image(path: Path) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, upright as viewers show it.

    Transparency and bands after the third are left out, with a note; `to_levels` converts other numbers to bytes.

    Raises:
        UserError: it is missing, too large or can't be decoded.
    """
    file = open_image(path)
    return upright(file.rgb(), file.orientation)


def read_label(path: Path, num_classes: int, reduce_zero_label: bool = False) -> np.ndarray:
    """A label map as (H, W) uint8 of classes below `num_classes` and 255; palette images give their indices.

    With `reduce_zero_label`, 0 in the file is unlabelled and becomes 255, and value v is class v - 1.

    Raises:
        UserError: the file is missing, can't be decoded, is a colour image, or has a value that is neither a class nor
            unlabelled.
    """
    return check_values(decode_label(path), num_classes, path, reduce_zero_label)


def check_values(label: np.ndarray, num_classes: int, path: Path, reduce_zero_label: bool = False) -> np.ndarray:
    """The classes of the label map of `path` as uint8, 255 if unlabelled. Raises UserError as `read_label` does."""
    if (values := wrong_values(label, num_classes, reduce_zero_label)).size:
        classes, unlabelled = meaning(num_classes, reduce_zero_label)
        raise UserError(
            f"{path}: label value {values[0]} is neither a class (C.num_classes = {num_classes}: {classes[0]} to "
            f"{classes[-1]}) nor {unlabelled}; {likely_cause(values, num_classes, reduce_zero_label)}"
        )
    label = label.astype(np.uint8, copy=False)
    return label - np.uint8(1) if reduce_zero_label else label  # 0 wraps to 255


def wrong_values(label: np.ndarray, num_classes: int, reduce_zero_label: bool = False) -> np.ndarray:
    """The values (n,) of a label map (H, W), as stored, that have no meaning; sorted."""
    classes, unlabelled = meaning(num_classes, reduce_zero_label)
    return np.unique(label[((label < classes[0]) | (label > classes[-1])) & (label != unlabelled)])


def meaning(num_classes: int, reduce_zero_label: bool) -> tuple[range, int]:
    """The values of the classes in label files, in order, and the value of unlabelled pixels."""
    return (range(1, num_classes + 1), 0) if reduce_zero_label else (range(num_classes), IGNORE_INDEX)


def decode_label(path: Path) -> np.ndarray:
    """The values of a label map (H, W) as stored, unchecked. Raises UserError as `read_label` does."""
    file = open_image(path)
    return upright(file.indices(), file.orientation)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H, W, ...) of a file, turned and mirrored by its EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def check_sizes(sample: Sample, image_size: tuple[int, int], label_size: tuple[int, int]) -> None:
    """Raise UserError unless image and label have the same height and width."""
    if image_size != label_size:
        (height, width), (label_height, label_width) = image_size, label_size
        turned = image_size == label_size[::-1] and open_image(sample.image).orientation != 1
        hint = ", upright by its EXIF orientation; turn the label, too" if turned else ""
        raise UserError(
            f"{sample.label}: {label_width}x{label_height} pixels, but its image {sample.image} has {width}x{height}"
            f"{hint}"
        )


def open_image(path: Path) -> Picture | Tiff:
    """Open an image file; at first only its header is decoded.

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
        raise UserError(f"{path}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}; cut it into tiles")
    return file


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) as stored. Raises UserError as `open_image` does."""
    try:
        with opened(path, FORMATS) as file:  # reads no more than the header
            return file.size
    except Exception:  # Pillow raises various exceptions for damaged files and some intact ones
        return tiff_size(path) or open_image(path).size


def likely_cause(values: np.ndarray, num_classes: int, reduce_zero_label: bool = False) -> str:
    """The usual cause of such label values."""
    if reduce_zero_label and IGNORE_INDEX in values:
        return f"if {IGNORE_INDEX} is unlabelled in these files, and 0 a class, set C.reduce_zero_label = False"
    greys = {round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in voc_palette(21)}
    if set(values.tolist()) <= greys:
        return "a palette image was probably read as grey values: write the palette's indices"
    if num_classes == len(CITYSCAPES_LABEL_IDS) and values.max() <= max(CITYSCAPES_LABEL_IDS):
        return "the official label ids were probably not converted to train ids, as prepare_city does"
    if values.tolist() == [num_classes] and not reduce_zero_label:
        return "if 0 is unlabelled in these files, as in ADE20K, set C.reduce_zero_label = True; or check C.num_classes"
    return "check C.num_classes and how the labels were made"
