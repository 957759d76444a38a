"""List files, which name the images and labels of a data source.

A line is an image id (`2007_000032`), an image and its label separated by a tab (as for Cityscapes) or by one space (as
in UniMatch's lists), or an image alone. Unlabelled images can also be a folder.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from furnace.datasets.folders import composed, existing, find_files
from furnace.utils.errors import UserError
from furnace.utils.files import write_together

MAX_LIST_BYTES = 2**28
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff"),
    *(".bmp", ".webp", ".ppm", ".pgm", ".gif", ".avif"),
)
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
# "IMAGE LABEL", both without spaces: a single name with a space, `my photo.jpg`, is one field.
PAIR = re.compile(
    rf"(\S+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})) (\S+(?:{'|'.join(map(re.escape, LABEL_SUFFIXES))}))", re.I
)


@dataclass(frozen=True)
class Sample:
    """One image, its label if there is one, and the name by which results are saved, unique in its list."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Lists:
    """Training samples with and without labels."""

    labeled: list[Sample]
    unlabeled: list[Sample]


def read_list(source: str | Path, root: str | Path, folder: str = "", labeled: bool = True) -> list[Sample]:
    """The samples of a list file, or of a folder of images.

    Args:
        source: a list file; with `labeled=False` also a folder, which is searched recursively.
        root: the data set's folder; paths in the list are relative to it, with or without a leading "/".
        folder: sub-folder of `root` whose `image/` and `label/` contain the files of ids.
        labeled: True if every sample needs a label.

    Raises:
        UserError: the list does not exist, a line can't be read, or an id has no image.
    """
    samples, faults = scan_list(source, root, folder, labeled)
    if faults:
        raise faults[0]
    return samples


def scan_list(
    source: str | Path, root: str | Path, folder: str = "", labeled: bool = True
) -> tuple[list[Sample], list[UserError]]:
    """As `read_list`, but the faults of single lines are returned, with the samples of the other lines."""
    source, root = Path(source), Path(root)
    if source.is_dir() and not labeled:
        return _read_folder(source), []
    lines = read_lines(source)
    images = cache(lambda: _images_by_id(root / folder / "image"))
    samples, faults = [], []
    for number, line in lines:
        try:
            samples.append(_parse(line, root, folder, images, labeled, f"{source}:{number}"))
        except UserError as error:
            faults.append(error)
    return with_unique_names(samples, root), faults


def read_lines(source: str | Path) -> list[tuple[int, str]]:
    """The lines of a list file that are not blank, numbered from 1.

    Raises:
        UserError: the file is missing, is not text, or is empty.
    """
    source = Path(source)
    if not source.is_file():
        what = "is a folder, not a list" if source.is_dir() else "no such list"
        raise UserError(f"{source}: {what}; check C.dataset_path and the sources in config.py, or see docs/lists.md")
    if (size := source.stat().st_size) > MAX_LIST_BYTES:
        raise UserError(f"{source}: {size} bytes are too many for a list; is it another file?")
    try:
        # Other characters that Python treats as line ends may be part of a name.
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{source}: can't be read as a text list ({error.__class__.__name__})") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{source}: the list is empty")
    return numbered


def fields_of(line: str) -> list[str]:
    """The parts of a line of a list: an image or id and, if there is one, a label."""
    pair = PAIR.fullmatch(line)
    return list(pair.groups()) if pair else [field.strip() for field in line.split("\t")]


def with_unique_names(samples: list[Sample], root: Path) -> list[Sample]:
    """The samples, with their paths from `root` as names if images of other folders have the same short name."""
    for keep_suffix in (False, True):
        images: dict[str, set[Path]] = {}
        for sample in samples:
            images.setdefault(sample.name, set()).add(sample.image)
        samples = [
            sample
            if len(images[sample.name]) == 1
            else replace(sample, name=_path_name(sample.image, root, keep_suffix))
            for sample in samples
        ]
    return samples


def _path_name(image: Path, root: Path, keep_suffix: bool) -> str:
    """An image's path from `root`, or from "/" if it is elsewhere."""
    image, root = (Path(os.path.normpath(path.absolute())) for path in (image, root))
    path = image.relative_to(root if image.is_relative_to(root) else image.anchor)
    return (path if keep_suffix else path.with_suffix("")).as_posix()


def list_hash(source: str | Path) -> str:
    """sha256 of the sorted lines, joined by newlines: it identifies a partition in any order, with any line ends."""
    lines = sorted(line for _, line in read_lines(source))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_list(path: str | Path, lines: Sequence[str], overwrite: bool = False) -> None:
    """Write a list file, as `write_lists` does."""
    write_lists({Path(path): lines}, overwrite)


def write_lists(lists: Mapping[Path, Sequence[str]], overwrite: bool = False) -> None:
    """Write list files together, see `write_together`; a file with the same lines in any order is kept.

    Raises:
        UserError: a file contains other lines and `overwrite` is not set, or one can't be written.
    """
    if not overwrite:
        for path, lines in lists.items():
            check_replaceable(path, lines)
    due = {path: lines for path, lines in lists.items() if overwrite or not path.exists()}
    write_together({path: "".join(f"{line}\n" for line in lines).encode() for path, lines in due.items()})


def check_replaceable(path: Path, lines: Sequence[str]) -> None:
    """Raise UserError if `path` exists and contains other lines than `lines`."""
    if path.exists() and sorted(line for _, line in read_lines(path)) != sorted(lines):
        raise UserError(f"{path}: already exists and lists other images; move it away to write a new one")


def _parse(
    line: str, root: Path, folder: str, images: Callable[[], dict[str, list[Path]]], labeled: bool, where: str
) -> Sample:
    fields = fields_of(line)
    if "\0" in line or len(fields) > 2 or not all(fields):
        raise UserError(f"{where}: can't read {line[:80]!r}; expected an image id, or IMAGE<TAB>LABEL")
    if len(fields) == 2:
        image, label = (_locate(field, root) for field in fields)
        return Sample(image.stem, image, label)
    if Path(line).suffix.lower() in IMAGE_SUFFIXES:
        if labeled:
            raise UserError(f"{where}: {line[:80]!r} names no label; expected an image id, or IMAGE<TAB>LABEL")
        image = _locate(line, root)
        return Sample(image.stem, image, None)
    try:
        found = images().get(composed(line), [])
    except UserError as error:
        raise UserError(f"{where}: {line[:80]!r} is read as an image id; {error}") from error
    if not found:
        raise UserError(
            f"{where}: no image {root / folder / 'image' / line}.*; check the list, C.dataset_path and the folder"
        )
    if len(found) > 1:
        raise UserError(f"{where}: {found[0]} and {found[1]}: two images with one id; move one of them away")
    return Sample(line, found[0], existing(root / folder / "label" / f"{line}.png"))


def _locate(path: str, root: Path) -> Path:
    """The file of a path in a list: below `root`, with a leading "/" or not, or else an absolute one."""
    below = existing(root / path.lstrip("/"))
    if not path.startswith("/"):
        return below
    # Lines of published lists also begin with "/": a path is absolute only if its file exists, or at least its folder.
    is_absolute = os.path.isfile(path) or (not below.parent.is_dir() and Path(path).parent.is_dir())
    return Path(path) if is_absolute else below


def _images_by_id(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check C.dataset_path, or see DATA/README.md for its contents")
    images = defaultdict(list)
    for path in find_files(folder, IMAGE_SUFFIXES, recursive=False):
        images[composed(path.stem)].append(path)
    return images


def _read_folder(folder: Path) -> list[Sample]:
    images = find_files(folder, IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{folder}: contains no image ({', '.join(IMAGE_SUFFIXES)})")
    return [Sample(path.relative_to(folder).with_suffix("").as_posix(), path, None) for path in images]
