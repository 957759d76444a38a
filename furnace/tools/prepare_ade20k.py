"""Prepare ADE20K of the 2016 challenge (Zhou et al., CVPR 2017): python -m furnace.tools.prepare_ade20k.

Names and files are the official ones: labels contain 0 for unlabelled pixels and class + 1 for others, as
`C.reduce_zero_label` in exp_ade20k/config.py states.
"""

from argparse import ArgumentParser
from pathlib import Path

from furnace import datasets
from furnace.datasets.archives import Source, open_source
from furnace.datasets.catalog import CATALOG
from furnace.datasets.protocols import UNIMATCH_DESTINATIONS, Layout
from furnace.tools.preparing import Plan, make_tasks, prepare, preparing_parser
from furnace.utils.arguments import user_path
from furnace.utils.errors import UserError, run

COUNTS = {"training": 20210, "validation": 2000}
LISTS = {"training": "train.txt", "validation": "val.txt"}
NAME = r"ADE_(?:train|val)_\d{8}"
NUM_CLASSES = len(CATALOG["ade20k"].names)
ADE20K_LAYOUT = Layout(UNIMATCH_DESTINATIONS, paths=str.split, everything=LISTS["training"])


def main(argv: list[str] | None = None) -> None:
    """Check the arguments, plan the files and make them."""
    args = build_parser().parse_args(argv)
    plan = plan_ade20k(open_source(args.source), args.target) if args.source else Plan()
    prepare(plan, ADE20K_LAYOUT, args)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = preparing_parser(
        "Prepare ADE20K, 150 classes: images, official labels and lists as exp_ade20k/config.py expects them.",
        "python -m furnace.tools.prepare_ade20k ADEChallengeData2016.zip",
        "ade20k",
    )
    parser.add_argument(
        "source", nargs="?", type=user_path, help="ADEChallengeData2016.zip, or the folder it was extracted to"
    )
    return parser


def plan_ade20k(source: Source, target: Path) -> Plan:
    """Plan the files from the source. Raises UserError if some are missing."""
    plan = Plan(known=tuple(LISTS.values()))
    for split, count in COUNTS.items():
        folders = images, labels = f"images/{split}", f"annotations/{split}"
        pictures, maps = (
            source.find(rf"(?:(?:.*/)?ADEChallengeData2016/)?{folder}/({NAME})\.{suffix}")
            for folder, suffix in zip(folders, ("jpg", "png"), strict=True)
        )
        if not pictures:
            raise UserError(f"{source.path}: contains no {images}/ADE_*.jpg; is it ADEChallengeData2016.zip?")
        if alone := set(maps) - set(pictures):
            raise UserError(f"{source.path}: lacks the images of {len(alone)} labels, such as {min(alone)}; incomplete")
        names = sorted(pictures)
        plan.tasks += make_tasks(source, pictures, names, target / images, ".jpg", datasets.check_jpeg)
        plan.tasks += make_tasks(source, maps, names, target / labels, ".png", check_label)
        plan.lists[LISTS[split]] = [f"{images}/{name}.jpg {labels}/{name}.png" for name in names]
        plan.published |= {images: count, labels: count, LISTS[split]: count}
    return plan


def check_label(content: bytes) -> bytes:
    """Return `content`, an official label PNG, unchanged. Raises ValueError for values other than 0 and class + 1."""
    datasets.require_values(datasets.decode_indices(content), NUM_CLASSES, reduce_zero_label=True)
    return content


if __name__ == "__main__":
    run(main)
