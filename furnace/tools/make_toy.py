"""Generate the toy data: python -m furnace.tools.make_toy."""

import argparse

from furnace import datasets
from furnace.utils.arguments import Parser, number, user_path
from furnace.utils.errors import run
from furnace.utils.files import explained
from furnace.utils.places import data_root


def main(argv: list[str] | None = None) -> None:
    """Generate the data and print the number of images."""
    args = build_parser().parse_args(argv)
    with explained(args.target):
        datasets.toy.make_toy(args.target, args.seed)
    counts = " and ".join(f"{count} {name}" for name, count in datasets.toy.FOLDERS.items())
    print(f"{args.target}: {counts} images")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Generate the toy data of exp_toy.", epilog="example: python -m furnace.tools.make_toy --seed 1"
    )
    default = data_root() / "DATA" / "toy"
    parser.add_argument("--target", default=default, type=user_path, help="folder to fill (default: DATA/toy)")
    parser.add_argument(
        "--seed", default=0, type=number("--seed", 0), help="different seeds give different images (default: 0)"
    )
    return parser


if __name__ == "__main__":
    run(main)
