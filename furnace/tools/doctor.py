"""Check an experiment's settings, files and machine before training: python -m furnace.tools.doctor exp_voc."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD

from furnace import checks, engine
from furnace.checks.findings import SAMPLE, Level, findings_table
from furnace.datasets.catalog import build_classes
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides
from furnace.utils.config import parse_overrides
from furnace.utils.errors import run
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table, open_console

if TYPE_CHECKING:
    import numpy as np

    from furnace.checks.checkup import Checkup

EXAMPLES = """examples:
  python -m furnace.tools.doctor exp_voc                     lists, files, 64 images per list, weights, time
  python -m furnace.tools.doctor exp_city --full             decode every image
  python -m furnace.tools.doctor exp_voc -o labeled_ratio=16 -d cpu
"""


def main(argv: list[str] | None = None) -> int:
    """Run the checks and print the findings; return the exit status: 1 if there are problems, else 0."""
    args = build_parser().parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    checkup = checks.Checkup(C, engine.parse_devices(args.devices)[0], None if args.full else SAMPLE)
    findings = checkup.run()
    console = open_console()
    if counts := checkup.class_counts():
        console.print(class_table(C, counts, checkup))
    console.print(findings_table(C, findings))
    problems, notes = (sum(f.level == level for f in findings) for level in (Level.PROBLEM, Level.NOTE))
    scope = "" if args.full else f"; at most {SAMPLE} images of each list decoded, --full decodes all"
    console.print(f"problems: {problems}, notes: {notes}{scope}", soft_wrap=True, highlight=False)
    return 1 if problems else 0


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Check lists, images, labels, weights, space and time of an experiment.\n"
        "The exit status is 1 if there are problems, else 0.",
        epilog=EXAMPLES,
    )
    parser.add_argument("experiment", help="folder with a config.py, such as exp_voc, or another config file in it")
    parser.add_argument("--full", action="store_true", help="decode every image and label, not a sample")
    parser.add_argument("-d", "--devices", help="device for measuring the time: 0, or cpu (default: first GPU or cpu)")
    add_overrides(parser)
    return parser


def class_table(C: Settings, counts: dict[str, np.ndarray], checkup: Checkup) -> Table:
    """Table of classes: share of the pixels that are not ignored, and number of images that show the class."""
    table = Table("class", box=SIMPLE_HEAD, title="labels read: share of pixels, images", title_justify="left")
    for title in counts:
        table.add_column(title, justify="right")
    names = build_classes(C).names
    for index, name in [*enumerate(names), (IGNORE_INDEX, "ignored")]:
        cells = []
        for title, values in counts.items():
            total = values.sum() if index == IGNORE_INDEX else max(values[: C.num_classes].sum(), 1)
            images = sum(found.counts is not None and found.counts[index] > 0 for found in checkup.inspections[title])
            cells.append(f"{100 * values[index] / total:6.2f} % {images:6d}")
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    run(main)
