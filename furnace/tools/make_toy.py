"""Generate the toy data: python -m furnace.tools.make_toy."""

import argparse
from pathlib import Path

from furnace.datasets.toy import FOLDERS, make_toy
from furnace.utils.errors import run

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "DATA" / "toy"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Generate the toy data of exp_toy.", epilog="example: python -m furnace.tools.make_toy --seed 1"
    )
    parser.add_argument("--target", default=DEFAULT_FOLDER, type=Path, help="folder to fill (default: DATA/toy)")
    parser.add_argument("--seed", default=0, type=int, help="another seed gives other images (default: 0)")
    args = parser.parse_args(argv)
    make_toy(args.target, args.seed)
    print(f"{args.target}: {' and '.join(f'{count} {name}' for name, count in FOLDERS.items())} images")


if __name__ == "__main__":
    run(main)
