"""Divide a training list into labelled and unlabelled images: python -m furnace.tools.make_splits."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from furnace import datasets
from furnace.datasets.catalog import build_classes
from furnace.datasets.partition import make_partition
from furnace.datasets.splits import Sample, read_lines, read_list, write_list
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides, number, whole_numbers
from furnace.utils.config import parse_overrides
from furnace.utils.errors import UserError, run
from furnace.utils.labels import LABEL_VALUES
from furnace.utils.progress import parallel
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table, open_console

if TYPE_CHECKING:
    from furnace.datasets.reading import Files

DEFAULT_RATIOS = [2, 4, 8, 16]
EXAMPLES = """examples:
  python -m furnace.tools.make_splits exp_voc --ratios 2,4,8,16 --seed 0
  python -m furnace.tools.make_splits exp_voc --numbers 92,183 --list DATA/pascal_voc/train.txt --out DATA/my_lists
"""


def main(argv: list[str] | None = None) -> None:
    """Read the classes of each image, order the images, and write labelled and unlabelled lists."""
    args = build_parser().parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    lines, samples = read_sorted(args.list or full_list(C), C)
    ratios = args.ratios if args.ratios or args.numbers else DEFAULT_RATIOS
    sizes = labeled_sizes(len(lines), ratios, args.numbers)
    pairs = {name: list_files(C, args.out, name) for name in sizes}
    existing = [file for pair in pairs.values() for file in pair if file.exists()]
    if existing and not args.overwrite:
        raise UserError(f"{existing[0]}: already exists; choose another folder with --out, or use --overwrite")
    presence = read_presence(samples, datasets.build_reader(C))
    order = make_partition(presence, args.seed)
    for name, size in sizes.items():
        for file, chosen in zip(pairs[name], (order[:size], order[size:]), strict=True):
            write_list(file, sorted(lines[i] for i in chosen), args.overwrite)
    names = build_classes(C).names
    print_summary({pairs[name][0]: presence[order[:size]] for name, size in sizes.items()}, presence, names)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Divide a training list into labelled and unlabelled images.\nSmaller labelled lists are subsets "
        "of larger ones and show every class if possible.\nThe same seed gives the same lists on every machine.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "experiment", help="folder whose config.py describes the data, such as exp_voc, or another config file in it"
    )
    parser.add_argument(
        "--ratios", type=whole_numbers("--ratios", 1), default=[], help="1/R of the images labelled (default: 2,4,8,16)"
    )
    parser.add_argument("--numbers", type=whole_numbers("--numbers", 1), default=[], help="numbers of labelled images")
    parser.add_argument(
        "--seed", type=number("--seed", 0), default=0, help="different seeds draw different images (default: 0)"
    )
    parser.add_argument("--list", type=Path, help="list of all training images (default: the data set's)")
    parser.add_argument("--out", type=Path, help="folder for the lists (default: as in config.py)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing lists")
    add_overrides(parser)
    return parser


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


def print_summary(shown: dict[Path, np.ndarray], everything: np.ndarray, names: Sequence[str]) -> None:
    """Print the classes of each labelled list from its rows of `read_presence`, and the classes that no image shows."""
    console = open_console(markup=False, highlight=False)
    table = Table("labelled list", "images", "classes", "rarest class", box=None)
    possible = everything.any(axis=0)
    for file, presence in shown.items():
        counts = presence.sum(axis=0)
        rarest = int(np.where(possible, counts, len(everything) + 1).argmin())
        classes = f"{(counts > 0).sum()} of {possible.sum()}"
        table.add_row(file.name, str(len(presence)), classes, f"{names[rarest]}: {counts[rarest]} images")
    console.print(table)
    if not possible.all():
        lacking = ", ".join(name for name, there in zip(names, possible, strict=True) if not there)
        console.print(f"note: no image shows {lacking}", soft_wrap=True)
    console.print(f"written to {next(iter(shown)).parent}", soft_wrap=True)


if __name__ == "__main__":
    run(main)
