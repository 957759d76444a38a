"""Prepare Pascal VOC 2012 with the SBD labels: python -m furnace.tools.prepare_voc.

The 10,582 augmented training images are those of SBD (Hariharan et al., ICCV 2011) and VOC train without those of VOC
val. VOC's own label is used if there is one.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from furnace import datasets
from furnace.datasets.archives import Source, open_source, published_difference
from furnace.datasets.catalog import CATALOG
from furnace.datasets.protocols import SUBSETS, Layout
from furnace.tools.preparing import Plan, make_tasks, prepare, preparing_parser
from furnace.utils.arguments import user_path
from furnace.utils.errors import UserError, run

if TYPE_CHECKING:
    from furnace.utils.visualize import Palette

VOC_BYTES, VOC_MD5 = 1999639040, "6cd6e144f989b92b3379bac3b3de84fd"
SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"
PUBLISHED = {
    "train_aug/image": 10582,
    "train_aug/label": 10582,
    "val/image": 1449,
    "val/label": 1449,
    "train_aug.txt": 10582,
    "train.txt": 1464,
    "val.txt": 1449,
}
NUM_CLASSES = len(CATALOG["pascal_voc"].names)
PALETTE = CATALOG["pascal_voc"].palette

ID = r"\d{4}_\d{6}"
VOC_FOLDER = r"(?:(?:.*/)?VOC2012/)?"
SBD_FOLDER = r"(?:(?:.*/)?dataset/)?"
VOC_LAYOUT = Layout(
    destinations={
        rf"{SUBSETS}(train_aug_(?:un)?labeled_1-\d+\.txt)": r"subset_train_aug/\1",
        rf"{SUBSETS}(?:train_)?(pseudoseg_(?:un)?labeled_1-\d+\.txt)": r"subset_train_aug/train_\1",
    },
    paths=lambda line: [f"train_aug/image/{line}.jpg", f"train_aug/label/{line}.png"],
)


def main(argv: list[str] | None = None) -> None:
    """Check the arguments, plan the files and make them."""
    args = build_parser().parse_args(argv)
    if bool(args.voc) != bool(args.sbd) or not (args.voc or args.splits_from):
        raise UserError("name --voc and --sbd (see DATA/README.md for the downloads), or --splits-from alone")
    plan = Plan()
    if args.voc:
        sbd = open_source(args.sbd)
        plan = plan_voc(open_source(args.voc), sbd, args.target, args.grey)
        differences = [published_difference(args.voc, VOC_MD5, VOC_BYTES)]
        if find_matrices(sbd):  # else it is not benchmark.tgz
            differences.append(published_difference(args.sbd, SBD_MD5))
        plan.warnings = [difference for difference in differences if difference]
    prepare(plan, VOC_LAYOUT, args)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = preparing_parser(
        "Prepare Pascal VOC 2012 with the SBD labels: images, labels and lists as exp_voc/config.py expects them.",
        "python -m furnace.tools.prepare_voc --voc VOCtrainval_11-May-2012.tar --sbd benchmark.tgz",
        "pascal_voc",
    )
    parser.add_argument("--voc", type=user_path, help="VOCtrainval_11-May-2012.tar, or the folder it was extracted to")
    parser.add_argument(
        "--sbd",
        type=user_path,
        help="benchmark.tgz or the folder it was extracted to, or a SegmentationClassAug folder or zip",
    )
    parser.add_argument(
        "--grey", action="store_true", help="write labels as grey values, as the published code reads them"
    )
    return parser


def plan_voc(voc: Source, sbd: Source, target: Path, grey: bool = False) -> Plan:
    """Plan the files from the two sources. Raises UserError if a list names missing files."""
    train, val = (read_ids(voc, f"{VOC_FOLDER}ImageSets/Segmentation/", name) for name in ("train", "val"))
    if both := set(train) & set(val):
        raise UserError(f"{voc.path}: {len(both)} images are in both train.txt and val.txt, such as {min(both)}")
    images = voc.find(rf"{VOC_FOLDER}JPEGImages/({ID})\.jpg")
    official = voc.find(rf"{VOC_FOLDER}SegmentationClass/({ID})\.png")
    extra, decode = find_extra_labels(sbd)
    convert = partial(convert_label, decode, None if grey else PALETTE)
    colour = datasets.GREY if grey else datasets.INDEXED
    augmented = sorted((set(train) | set(extra)) - set(val))
    only_extra = sorted(set(augmented) - set(train))
    pictures = partial(make_tasks, voc, images, suffix=".jpg", convert=datasets.check_jpeg)
    own = partial(convert_label, datasets.decode_indices, None) if grey else check_label
    labels = partial(make_tasks, voc, official, suffix=".png", convert=own, verbatim=not grey, colour=colour)
    return Plan(
        tasks=[
            *pictures(augmented, target / "train_aug/image"),
            *pictures(val, target / "val/image"),
            *labels(train, target / "train_aug/label"),
            *labels(val, target / "val/label"),
            *make_tasks(sbd, extra, only_extra, target / "train_aug/label", ".png", convert, False, colour),
        ],
        lists={"train_aug.txt": augmented, "train.txt": train, "val.txt": val},
        published=PUBLISHED,
        known=("train_aug.txt", "train.txt"),
    )


def find_extra_labels(sbd: Source) -> tuple[dict[str, str], Callable[[bytes], np.ndarray]]:
    """Members with additional labels, by image id, and the function that decodes them.

    These are the .mat files of SBD's two lists; without .mat files, all PNGs of SegmentationClassAug.
    """
    if matrices := find_matrices(sbd):
        ids = [i for name in ("train", "val") for i in read_ids(sbd, SBD_FOLDER, name)]
        if lacking := set(ids) - set(matrices):
            raise UserError(f"{sbd.path}: lacks {len(lacking)} labels of its lists, such as cls/{min(lacking)}.mat")
        return {i: matrices[i] for i in ids}, decode_matrix
    if pictures := sbd.find(rf"(?:(?:.*/)?SegmentationClassAug/)?({ID})\.png"):
        return pictures, datasets.decode_indices
    raise UserError(
        f"{sbd.path}: contains neither dataset/cls/*.mat nor SegmentationClassAug/*.png; is it benchmark.tgz?"
    )


def find_matrices(sbd: Source) -> dict[str, str]:
    """Members with SBD's .mat labels in a source, by image id."""
    return sbd.find(rf"{SBD_FOLDER}cls/({ID})\.mat")


def read_ids(source: Source, folder: str, name: str) -> list[str]:
    """Image ids of the list `name` in `folder`, a regular expression. Raises UserError if the list can't be used."""
    member = source.find(rf"{folder}({name})\.txt").get(name)
    if not member:
        raise UserError(f"{source.path}: contains no list {name}.txt; is it the archive named in DATA/README.md?")
    ids = source.read_text(member).split()
    if wrong := [i for i in ids if not re.fullmatch(ID, i)]:
        raise UserError(f"{source.path}: {member} contains {wrong[0][:40]!r}, which is not an image id")
    return ids


def check_label(content: bytes) -> bytes:
    """Return `content`, one of VOC's own label PNGs, unchanged. Raises ValueError for values that are not classes."""
    datasets.require_values(datasets.decode_indices(content), NUM_CLASSES)
    return content


def convert_label(decode: Callable[[bytes], np.ndarray], palette: Palette | None, content: bytes) -> bytes:
    """Convert a member to a label PNG: indices into `palette`, or grey values if `palette` is None."""
    return datasets.encode_label(datasets.require_values(decode(content), NUM_CLASSES), palette)


def decode_matrix(content: bytes) -> np.ndarray:
    """Decode the label (H, W) uint8 of an SBD .mat file."""
    from scipy.io import loadmat

    label = loadmat(BytesIO(content), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"]
    return np.asarray(label, dtype=np.uint8)


if __name__ == "__main__":
    run(main)
