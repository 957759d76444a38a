"""Divide a training list into labelled and unlabelled images: python -m furnace.tools.make_splits."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from furnace.datasets.catalog import build_classes
from furnace.datasets.subsets import build_pool, labeled_sizes, list_files, write_subsets
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides, number, user_path, whole_numbers
from furnace.utils.config import parse_overrides
from furnace.utils.errors import run
from furnace.utils.terminal import Table, open_console

DEFAULT_RATIOS = [2, 4, 8, 16]
EXAMPLES = """examples:
  python -m furnace.tools.make_splits exp_voc --ratios 2,4,8,16 --seed 0
  python -m furnace.tools.make_splits exp_voc --numbers 92,183 --list DATA/pascal_voc/train.txt --out DATA/my_lists
"""


def main(argv: list[str] | None = None) -> None:
    """Read the classes of each image, order the images, and write labelled and unlabelled lists."""
    args = build_parser().parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    pool = build_pool(C, args.list)
    ratios = args.ratios if args.ratios or args.numbers else DEFAULT_RATIOS
    sizes = labeled_sizes(len(pool.lines), ratios, args.numbers)
    files = {list_files(C.train_source, name, args.out): size for name, size in sizes.items()}
    shown = write_subsets(pool, files, args.seed, args.overwrite)
    print_summary(shown, pool.presence, build_classes(C).names)


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
    parser.add_argument("--list", type=user_path, help="list of all training images (default: the data set's)")
    parser.add_argument("--out", type=user_path, help="folder for the lists (default: as in config.py)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing lists")
    add_overrides(parser)
    return parser


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
