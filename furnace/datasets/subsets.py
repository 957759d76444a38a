"""Labelled and unlabelled lists, drawn from all training images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from furnace import datasets
from furnace.datasets.catalog import CATALOG
from furnace.datasets.partition import make_partition
from furnace.datasets.splits import Sample, read_lines, read_list, write_lists
from furnace.utils.errors import UserError
from furnace.utils.labels import LABEL_VALUES
from furnace.utils.progress import parallel
from furnace.utils.settings import Settings

if TYPE_CHECKING:
    from furnace.datasets.reading import Files

Pair = tuple[Path, Path]  # paths of a labelled and an unlabelled list


@dataclass(frozen=True)
class Pool:
    """All training images: sorted lines of their list, and the samples of these lines; `files` reads their labels."""

    lines: list[str]
    samples: list[Sample]
    files: Files

    @cached_property
    def presence(self) -> np.ndarray:
        """True for each class in each image's label, (N, K) bool. Raises UserError if a label can't be read."""

        def shown(sample: Sample) -> np.ndarray:
            label = self.files.label(sample.label)
            return np.bincount(label.ravel(), minlength=LABEL_VALUES)[: self.files.num_classes] > 0

        return np.stack(parallel(shown, self.samples, "labels"))


def pool_list(C: Settings, source: Path | None = None) -> Path:
    """The list of all training images: `source`, or the data set's own, which lies one folder above the partitions.

    Raises:
        UserError: it is missing.
    """
    source = source or Path(C.train_source).parent.parent / f"{C.train_folder or 'train'}.txt"
    if not source.is_file():
        other = "prepare the data as described in DATA/README.md"
        if C.dataset_name not in CATALOG:
            other = f"for those alone that have masks, --list {C.train_source}"
        raise UserError(f"{source}: no such list; name a list of images that all have labels with --list, or {other}")
    return source


def build_pool(C: Settings, source: Path | None = None) -> Pool:
    """The training images of `pool_list`. Raises UserError if the list is missing, or a line occurs twice."""
    return read_pool(pool_list(C, source), Path(C.dataset_path), C.train_folder, datasets.build_reader(C))


def read_pool(source: Path, root: Path, folder: str, files: Files) -> Pool:
    """The images of a list, see `read_list`. Raises UserError if a line occurs twice."""
    lines = [line for _, line in read_lines(source)]
    samples = dict(zip(lines, read_list(source, root, folder), strict=True))
    if len(samples) < len(lines):
        twice = next(line for line, count in Counter(lines).items() if count > 1)
        raise UserError(f"{source}: {twice!r} occurs twice; labelled and unlabelled images would overlap")
    ordered = sorted(samples)
    return Pool(ordered, [samples[line] for line in ordered], files)


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


def list_files(train_source: str, name: str, out: Path | None = None) -> Pair:
    """Paths of the lists of a partition in a folder (None: that of `train_source`), named as `train_source`."""
    source = Path(train_source)
    prefix = source.stem.split("_labeled")[0]
    folder = out or source.parent
    return folder / f"{prefix}_labeled_{name}.txt", folder / f"{prefix}_unlabeled_{name}.txt"


def write_subsets(pool: Pool, sizes: Mapping[Pair, int], seed: int, overwrite: bool = False) -> dict[Path, np.ndarray]:
    """Order the images and write lists, with the first images labelled: smaller labelled lists are parts of larger.

    Args:
        pool: all images.
        sizes: number of labelled images by the paths of the lists.
        seed: another seed draws other images.
        overwrite: replace existing lists.

    Returns:
        the classes (n, K) bool of the images of each labelled list.

    Raises:
        UserError: a list already exists, or a label can't be read.
    """
    existing = [file for pair in sizes for file in pair if file.exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]}: already exists; choose another folder with --out, or use --overwrite")
    order = make_partition(pool.presence, seed)
    parts = {
        file: sorted(pool.lines[i] for i in chosen)
        for pair, size in sizes.items()
        for file, chosen in zip(pair, (order[:size], order[size:]), strict=True)
    }
    write_lists(parts, overwrite)
    return {labeled: pool.presence[order[:size]] for (labeled, _), size in sizes.items()}
