"""Lists of labelled and unlabelled images, drawn from a list of all training images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from furnace import datasets
from furnace.datasets.partition import make_partition
from furnace.datasets.splits import Sample, read_lines, read_list, write_list
from furnace.utils.errors import UserError
from furnace.utils.labels import LABEL_VALUES
from furnace.utils.progress import parallel
from furnace.utils.settings import Settings

if TYPE_CHECKING:
    from furnace.datasets.reading import Files


def write_subsets(
    C: Settings,
    source: Path,
    ratios: Sequence[int],
    numbers: Sequence[int],
    seed: int,
    out: Path | None = None,
    overwrite: bool = False,
) -> tuple[dict[Path, np.ndarray], np.ndarray]:
    """Read the classes of each image, order the images, and write labelled and unlabelled lists.

    Args:
        C: settings that describe the data.
        source: list of all training images.
        ratios, numbers: of the lists, see `labeled_sizes`.
        seed: another seed draws other images.
        out: folder of the lists; None: as in `C`.
        overwrite: replace existing lists.

    Returns:
        the classes (n, K) bool of the images of each labelled list, and those (N, K) of all images.

    Raises:
        UserError: a list already exists, or a line or label can't be read.
    """
    lines, samples = read_sorted(source, C)
    sizes = labeled_sizes(len(lines), ratios, numbers)
    pairs = {name: list_files(C, out, name) for name in sizes}
    existing = [file for pair in pairs.values() for file in pair if file.exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]}: already exists; choose another folder with --out, or use --overwrite")
    presence = read_presence(samples, datasets.build_reader(C))
    order = make_partition(presence, seed)
    for name, size in sizes.items():
        for file, chosen in zip(pairs[name], (order[:size], order[size:]), strict=True):
            write_list(file, sorted(lines[i] for i in chosen), overwrite)
    return {pairs[name][0]: presence[order[:size]] for name, size in sizes.items()}, presence


def full_list(C: Settings) -> Path:
    """Path of the list of all training images, named after their folder; it lies one folder above the partitions."""
    path = Path(C.train_source).parent.parent / f"{C.train_folder or 'train'}.txt"
    if not path.is_file():
        raise UserError(
            f"{path}: no such list; name the list of all labelled images with --list, or prepare the data as described "
            "in DATA/README.md"
        )
    return path


def read_sorted(source: Path, C: Settings) -> tuple[list[str], list[Sample]]:
    """The sorted lines of a list, and their samples. Raises UserError if a line occurs twice."""
    lines = [line for _, line in read_lines(source)]
    samples = dict(zip(lines, read_list(source, C.dataset_path, C.train_folder), strict=True))
    if len(samples) < len(lines):
        twice = next(line for line, count in Counter(lines).items() if count > 1)
        raise UserError(f"{source}: {twice!r} occurs twice; labelled and unlabelled images would overlap")
    ordered = sorted(samples)
    return ordered, [samples[line] for line in ordered]


def labeled_sizes(count: int, ratios: Sequence[int], numbers: Sequence[int]) -> dict[str, int]:
    """Number of labelled images by partition: `count` // R for "1-R", as in config.py, and N for "N".

    The published lists round up if `count` is not a multiple of R (1323 of VOC's 10582, not 1322).

    Raises:
        UserError: a partition would have no labelled or no unlabelled images.
    """
    sizes = {f"1-{ratio}": count // ratio for ratio in ratios} | {str(number): number for number in numbers}
    for name, size in sizes.items():
        if not 0 < size < count:
            raise UserError(f"partition {name}: {size} labelled of {count} images would leave one of the lists empty")
    return sizes


def list_files(C: Settings, out: Path | None, name: str) -> tuple[Path, Path]:
    """Paths of the labelled and the unlabelled list of a partition, named as in config.py."""
    source = Path(C.train_source)
    prefix = source.stem.split("_labeled")[0]
    folder = out or source.parent
    return folder / f"{prefix}_labeled_{name}.txt", folder / f"{prefix}_unlabeled_{name}.txt"


def read_presence(samples: Sequence[Sample], files: Files) -> np.ndarray:
    """True for each class in each image's label, (N, K) bool. Raises UserError if a label can't be read."""

    def shown(sample: Sample) -> np.ndarray:
        label = files.label(sample.label)
        return np.bincount(label.ravel(), minlength=LABEL_VALUES)[: files.num_classes] > 0

    return np.stack(parallel(shown, samples, "labels"))
