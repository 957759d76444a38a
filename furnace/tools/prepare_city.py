"""Prepare Cityscapes (Cordts et al., CVPR 2016): python -m furnace.tools.prepare_city."""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from furnace import datasets
from furnace.datasets.archives import Source, open_source
from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS
from furnace.datasets.protocols import SUBSETS, Layout
from furnace.tools.preparing import Plan, make_tasks, prepare, preparing_parser
from furnace.utils.arguments import user_path
from furnace.utils.errors import UserError, run
from furnace.utils.labels import IGNORE_INDEX

COUNTS = {"train": 2975, "val": 500, "test": 1525}
LABELLED = ("train", "val")  # the labels of test are not public
TRAIN_IDS = np.full(256, IGNORE_INDEX, dtype=np.uint8)  # indexed by official label id
TRAIN_IDS[list(CITYSCAPES_LABEL_IDS)] = range(len(CITYSCAPES_LABEL_IDS))
FRAME = r"[a-z]+_\d{6}_\d{6}"
CITY_LAYOUT = Layout(
    destinations={
        rf"{SUBSETS}(train_aug_(?:un)?labeled_1-\d+\.txt)": r"config_new/subset_train/\1",
        r"(val\.txt)": r"config_new/\1",
    },
    paths=lambda line: [path.strip().lstrip("/") for path in line.split("\t")],
)


def main(argv: list[str] | None = None) -> None:
    """Check the arguments, plan the files and make them."""
    args = build_parser().parse_args(argv)
    if bool(args.images) != bool(args.labels) or not (args.images or args.splits_from):
        raise UserError("name --images and --labels (see DATA/README.md for the downloads), or --splits-from alone")
    plan = plan_city(open_source(args.images), open_source(args.labels), args.target) if args.images else Plan()
    prepare(plan, CITY_LAYOUT, args)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = preparing_parser(
        "Prepare Cityscapes: images, labels as train ids and lists as exp_city/config.py expects them.",
        "python -m furnace.tools.prepare_city --images leftImg8bit_trainvaltest.zip --labels gtFine_trainvaltest.zip",
        "city",
    )
    parser.add_argument(
        "--images", type=user_path, help="leftImg8bit_trainvaltest.zip, or the folder it was extracted to"
    )
    parser.add_argument("--labels", type=user_path, help="gtFine_trainvaltest.zip, or the folder it was extracted to")
    return parser


def plan_city(images: Source, labels: Source, target: Path) -> Plan:
    """Plan the files from the two sources; test images are optional. Raises UserError if other files are missing."""
    plan = Plan(known=tuple(f"config_new/{split}.txt" for split in LABELLED))
    for split, count in COUNTS.items():
        folder, label_folder = f"images/{split}", f"segmentation/{split}"
        pictures = images.find(rf"(?:(?:.*/)?leftImg8bit/)?{split}/[a-z]+/({FRAME})_leftImg8bit\.png")
        frames = sorted(pictures)
        lines = [f"/{folder}/{frame}.png" for frame in frames]
        plan.published[folder] = count
        plan.tasks += make_tasks(images, pictures, frames, target / folder, ".png", datasets.check_png)
        if split in LABELLED:
            maps = labels.find(rf"(?:(?:.*/)?gtFine/)?{split}/[a-z]+/({FRAME})_gtFine_labelIds\.png")
            check_pairs(images, pictures, labels, maps, split)
            plan.tasks += make_tasks(
                labels, maps, frames, target / label_folder, "_gtFine.png", convert_label, verbatim=False
            )
            lines = [f"{line}\t/{label_folder}/{frame}_gtFine.png" for line, frame in zip(lines, frames, strict=True)]
            plan.published[label_folder] = count
        if frames:
            plan.lists[f"config_new/{split}.txt"] = lines
        plan.published[f"config_new/{split}.txt"] = count
    return plan


def check_pairs(images: Source, pictures: dict[str, str], labels: Source, maps: dict[str, str], split: str) -> None:
    """Raise UserError if a split has no images, no labels, or labels without images."""
    if not pictures:
        raise UserError(
            f"{images.path}: contains no leftImg8bit/{split}/CITY/*_leftImg8bit.png; is it "
            "leftImg8bit_trainvaltest.zip?"
        )
    if not maps:
        raise UserError(
            f"{labels.path}: contains no gtFine/{split}/CITY/*_gtFine_labelIds.png; is it gtFine_trainvaltest.zip?"
        )
    if alone := set(maps) - set(pictures):
        raise UserError(
            f"{images.path}: lacks the images of {len(alone)} labels of {split}, such as {min(alone)}; incomplete"
        )


def convert_label(content: bytes) -> bytes:
    """Convert a PNG of official label ids to a grey PNG of train ids."""
    return datasets.encode_label(TRAIN_IDS[datasets.decode_indices(content)])


if __name__ == "__main__":
    run(main)
