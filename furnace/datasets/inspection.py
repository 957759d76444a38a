"""Find, count and name the faults of lists, images and labels, without changing anything."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from furnace.datasets.reading import Files, check_sizes, check_values, decode_label, image_size, open_image
from furnace.datasets.splits import Sample, fields_of, read_lines, scan_list
from furnace.utils.background import ahead
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX, LABEL_VALUES
from furnace.utils.progress import parallel

DECODES, SIZES, VALUES, EMPTY = "decodes", "same size", "values", "has a class"
COMPARED_BYTES = 4096
SIZED, LEAST_FILLED = 16, 0.5


@dataclass
class Listing:
    """A source of images in the settings, with its samples and faults.

    `title` is "labelled", "unlabelled" or "evaluation"; `lines` are the names of the images in a list file, empty for a
    folder or an unreadable list; `faults` are those of single lines, or of the whole source.
    """

    title: str
    source: str
    folder: str
    labeled: bool
    lines: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[UserError] = field(default_factory=list)


def open_listing(title: str, source: str, root: str, folder: str, labeled: bool) -> Listing:
    """Read a list or folder, and keep its faults instead of raising them."""
    listing = Listing(title, source, folder, labeled)
    try:
        if labeled or not Path(source).is_dir():
            listing.lines = [fields_of(line)[0] for _, line in read_lines(source)]
        listing.samples, listing.faults = scan_list(source, root, folder, labeled)
    except UserError as error:
        listing.faults = [error]
    return listing


def shared_images(one: Listing, other: Listing) -> list[str] | None:
    """Names of the images that two listings share: the same files, under any names.

    If a listing has faults, the names in two lists of the same folder are compared; None if this is impossible, too.
    """
    if not (one.faults or other.faults):
        files = {file_identity(sample.image): sample.name for sample in one.samples}
        return sorted({files[key] for sample in other.samples if (key := file_identity(sample.image)) in files})
    if one.lines and other.lines and one.folder == other.folder:
        return sorted(set(one.lines) & set(other.lines))
    return None


def among(
    samples: Iterable[Sample], files: Iterable[Path | None], identity: Callable[[Path], object] | None = None
) -> list[Sample]:
    """The samples whose images are among other files, under any names; `identity` is a cached `file_identity`."""
    identity = identity or file_identity
    known = {identity(path) for path in files if path}
    return [sample for sample in samples if identity(sample.image) in known]


def repeated(samples: Iterable[Sample]) -> list[Sample]:
    """The samples whose image and label an earlier one has, too, by other paths or the same."""
    seen: set[tuple[str, str | None]] = set()
    paths = ((sample, sample.label and os.path.realpath(sample.label)) for sample in samples)
    return [s for s, label in paths if (key := (os.path.realpath(s.image), label)) in seen or seen.add(key)]


def turned_alone(sample: Sample) -> bool:
    """True if reading turns the image by its EXIF orientation, but not its label: they may not fit.

    Raises:
        UserError: a file can't be opened.
    """
    return open_image(sample.image).orientation != 1 and open_image(sample.label).orientation == 1


def file_identity(path: Path) -> tuple[int, int] | str:
    """A key that is the same for every path to a file, including links and hard links."""
    try:
        found = os.stat(path)
    except OSError:
        return str(path)
    return found.st_dev, found.st_ino


def missing_files(samples: Iterable[Sample], labeled: bool) -> list[Path]:
    """Images of samples and, if they are `labeled`, labels that do not exist."""
    paths = [path for sample in samples for path in _files(sample, labeled)]
    there = parallel(os.path.isfile, paths)
    return [path for path, is_there in zip(paths, there, strict=True) if not is_there]


def duplicates(listings: Iterable[Listing]) -> list[list[tuple[str, Path]]]:
    """Groups of different image files with the same content, each file with the title of a listing that has it."""
    by_file = {}
    for listing in listings:
        for sample in listing.samples:
            if sample.image.is_file():
                by_file.setdefault(file_identity(sample.image), (listing.title, sample.image))
    by_size = defaultdict(list)
    for entry in by_file.values():
        by_size[entry[1].stat().st_size].append(entry)
    alike = [group for group in by_size.values() if len(group) > 1]
    for length in (COMPARED_BYTES, -1):  # most files differ in their first bytes
        groups: dict[object, list[tuple[str, Path]]] = defaultdict(list)
        entries = [(number, entry) for number, group in enumerate(alike) for entry in group]
        digests = parallel(lambda item, length=length: _digest(item[1][1], length), entries, "duplicates")
        for (number, entry), digest in zip(entries, digests, strict=True):
            groups[number, digest].append(entry)
        alike = [group for group in groups.values() if len(group) > 1]
    return alike


def _digest(path: Path, length: int) -> bytes:
    """Digest of the first `length` bytes of a file, or of all with -1; a file that can't be read is like no other."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.blake2b(file.read(length)).digest()
    except OSError:  # its decoding reports it
        return os.fsencode(path)


def _files(sample: Sample, labeled: bool) -> list[Path]:
    return [sample.image, sample.label] if labeled else [sample.image]


@dataclass
class Inspection:
    """Result of decoding one sample: `faults`, messages by check; `counts` (256,) int64 of its label's values.

    `turned` is as in `turned_alone`.
    """

    sample: Sample
    faults: dict[str, str] = field(default_factory=dict)
    counts: np.ndarray | None = None
    turned: bool = False


def inspect(sample: Sample, files: Files, labeled: bool) -> Inspection:
    """Decode an image and, if it is `labeled`, its label, and check them."""
    found = Inspection(sample)
    meaning = files.num_classes, sample.label, files.reduce_zero_label
    image = _attempt(found, DECODES, lambda: files.image(sample.image))
    label = _attempt(found, DECODES, lambda: decode_label(sample.label)) if labeled else None
    if image is not None and label is not None:
        _attempt(found, SIZES, lambda: check_sizes(sample, image.shape[:2], label.shape))
        found.turned = turned_alone(sample)
    if label is not None:
        checked = _attempt(found, VALUES, lambda: check_values(label, *meaning))
        if checked is not None:
            found.counts = np.bincount(checked.ravel(), minlength=LABEL_VALUES)
            if (checked == IGNORE_INDEX).all():
                found.faults[EMPTY] = str(sample.label)
    return found


def padding_note(samples: Sequence[Sample], crop: tuple[int, int], scales: Sequence[float]) -> str:
    """A line if images at the middle scale fill less than half of the `crop` (h, w); "" if they fill more.

    The sizes are those of a few images: a header costs little, but data sets have many.
    """
    sizes = []
    for sample in samples[:: max(len(samples) // SIZED, 1)]:
        with suppress(UserError):  # training names the file, or skips it
            sizes.append(image_size(sample.image))
    if not sizes:
        return ""
    (height, width), scale = crop, np.median(scales)
    usual_width, usual_height = np.median(sizes, axis=0)
    turned = (usual_height, usual_width), (usual_width, usual_height)  # by EXIF, perhaps
    filled = max(min(high * scale / height, 1) * min(wide * scale / width, 1) for high, wide in turned)
    if filled >= LEAST_FILLED:
        return ""
    return (
        f"C.image_height x C.image_width = {height} x {width}: images of {usual_height:.0f} x {usual_width:.0f} pixels "
        f"fill {filled:.0%} of it at scale {scale:g}, the rest is padding; choose a smaller crop"
    )


def absent_classes(samples: Sequence[Sample], files: Files, skip_unreadable: bool = False) -> list[int]:
    """The classes that no label of the samples shows; labels are read until all classes have been seen.

    Raises:
        UserError: a label can't be used, unless `skip_unreadable`.
    """
    seen: set[int] = set()
    for _, found in ahead(lambda sample: _classes_of(sample, files, skip_unreadable), samples):
        seen |= found
        if len(seen) == files.num_classes:
            return []
    return sorted(set(range(files.num_classes)) - seen)


def _classes_of(sample: Sample, files: Files, skip_unreadable: bool) -> set[int]:
    try:
        return set(np.unique(files.label(sample.label)).tolist()) - {IGNORE_INDEX}
    except UserError:
        if not skip_unreadable:
            raise
        return set()


def _attempt(found: Inspection, check: str, work: Callable[[], np.ndarray | None]) -> np.ndarray | None:
    try:
        return work()
    except UserError as error:
        found.faults[check] = str(error)
        return None


def inspect_all(listing: Listing, files: Files, limit: int | None) -> list[Inspection]:
    """Inspect the samples whose files exist, in parallel: all, or the same choice of `limit` each time."""
    there = [s for s in listing.samples if all(path.is_file() for path in _files(s, listing.labeled))]
    if limit is not None and limit < len(there):
        chosen = np.random.default_rng(0).choice(len(there), limit, replace=False)
        there = [there[i] for i in sorted(chosen)]
    return parallel(lambda sample: inspect(sample, files, listing.labeled), there, listing.title)
