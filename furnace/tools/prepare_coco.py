"""Prepare COCO 2017 (Lin et al., ECCV 2014), with masks of 80 categories: python -m furnace.tools.prepare_coco.

`datasets.instances` draws the masks from the instance annotations.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from furnace import datasets
from furnace.datasets.archives import Source, open_source
from furnace.datasets.catalog import CATALOG
from furnace.datasets.instances import Instances
from furnace.datasets.protocols import UNIMATCH_DESTINATIONS, Layout
from furnace.tools.preparing import Plan, make_tasks, prepare, preparing_parser
from furnace.utils.arguments import user_path
from furnace.utils.errors import UserError, run

COUNTS = {"train": 118287, "val": 5000}
ARCHIVES = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
MASKS = "masks"
MAX_JSON_BYTES = 2**30  # instances_train2017.json is less than half as large
CLASSES = CATALOG["coco"]
COCO_LAYOUT = Layout(UNIMATCH_DESTINATIONS, paths=str.split, everything="train.txt")


def main(argv: list[str] | None = None) -> None:
    """Check the arguments, plan the files and make them."""
    args = build_parser().parse_args(argv)
    plan = plan_coco(open_sources(args.sources), args.target) if args.sources else Plan()
    prepare(plan, COCO_LAYOUT, args)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = preparing_parser(
        "Prepare COCO 2017, 80 object classes and background: images, masks drawn from the instance annotations, and "
        "lists as exp_coco/config.py expects them.",
        f"python -m furnace.tools.prepare_coco {' '.join(ARCHIVES)}",
        "coco",
    )
    parser.add_argument(
        "sources",
        nargs="*",
        type=user_path,
        metavar="SOURCE",
        help=f"{', '.join(ARCHIVES)}, a folder that contains them, or the folders they were extracted to",
    )
    return parser


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Open the archives and folders, and the official archives in the folders. Raises UserError."""
    inner = [path / name for path in paths for name in ARCHIVES if (path / name).is_file()]
    return [open_source(path) for path in [*paths, *inner]]


def plan_coco(sources: Sequence[Source], target: Path) -> Plan:
    """Plan the files from the sources. Raises UserError if some are missing."""
    plan = Plan(known=("val.txt",))
    for split, count in COUNTS.items():
        folder, listing = f"{split}2017", f"{split}.txt"
        images, pictures = find(sources, folder, r"(\d{12})\.jpg", f"{folder}.zip")
        instances = read_instances(sources, f"instances_{folder}")
        names = sorted(instances.images)
        plan.tasks += make_tasks(images, pictures, names, target / folder, ".jpg", datasets.check_jpeg)
        drawings = {name: name for name in names}
        plan.tasks += make_tasks(instances, drawings, names, target / MASKS, ".png", draw_mask, verbatim=False)
        plan.lists[listing] = [f"{folder}/{name}.jpg {MASKS}/{name}.png" for name in names]
        plan.published |= {folder: count, listing: count}
    plan.published[MASKS] = sum(COUNTS.values())
    return plan


def read_instances(sources: Sequence[Source], name: str) -> Instances:
    """Read the instance annotations of a split. Raises UserError if they are missing or can't be used."""
    source, members = find(sources, "annotations", rf"({name})\.json", ARCHIVES[-1], MAX_JSON_BYTES)
    ((member, content),) = source.read(list(members.values()))
    return Instances(source.path / member, content, CLASSES.names[1:])


def find(
    sources: Sequence[Source], folder: str, pattern: str, archive: str, limit: int | None = None
) -> tuple[Source, dict[str, str]]:
    """The first source with files that match a pattern in a folder, and these files; it may be the folder itself.

    Raises:
        UserError: no source has such files.
    """
    for source in sources:
        place = "" if source.path.name == folder else rf"(?:.*/)?{folder}/"
        if members := source.find(place + pattern, limit):
            return source, members
    raise UserError(f"{', '.join(str(s.path) for s in sources)}: no files in {folder}; name {archive}, too")


def draw_mask(content: bytes) -> bytes:
    """Draw the annotations of an image as a palette PNG."""
    return datasets.encode_label(datasets.draw_label(content), CLASSES.palette)


if __name__ == "__main__":
    run(main)
