"""Create an experiment for your own images: python -m furnace.tools.new_experiment NAME --images ... --masks ..."""

import math
import os
import re
import shlex
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from furnace import datasets
from furnace.datasets.catalog import CATALOG
from furnace.datasets.splits import Sample, check_replaceable, write_list
from furnace.utils.arguments import Parser
from furnace.utils.errors import UserError, run
from furnace.utils.files import existing_part, explained
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.places import CHECKOUT, data_root
from furnace.utils.settings import NAMES_MUST, are_class_names
from furnace.utils.terminal import open_console
from furnace.utils.wording import few, one_line

PATTERN = "exp_toy"  # source of the copied commands, which are the same in every experiment
COMMANDS = ("train.py", "eval.py", "predict.py", "export.py")
MIN_UNLABELED = 2  # the smallest batch: BatchNorm learns nothing from one image
CROP_STEP = 32
LEAST_ITERATIONS = 200  # of few images: after fewer a network has hardly begun to learn
SNAPSHOTS = 8  # about, of longer runs


@dataclass(frozen=True)
class Scope:
    """Recipe for a type of machine: settings, largest batch, crop and evaluation window, iterations per epoch."""

    backbone: str
    weights: str
    head_channels: int
    scales: list[float]
    eval_scale: float
    nepochs: int
    snapshot_iter: int
    batch: int
    crop: int
    window: int
    num_workers: int
    epoch: str


EPOCH = "C.max_samples // C.batch_size"
GPU = Scope(
    backbone="resnet50",
    weights="downloaded once",
    head_channels=256,
    scales=[0.5, 0.75, 1, 1.5, 1.75, 2.0],
    eval_scale=1,
    nepochs=40,
    snapshot_iter=5,
    batch=8,
    crop=512,
    window=512,
    num_workers=4,
    epoch=EPOCH,
)
# First results in minutes for any number of images: half the resolution and short training.
CPU = Scope(
    backbone="tf_efficientnet_lite0",
    weights="from an installed package",
    head_channels=64,
    scales=[0.35, 0.5, 0.65],
    eval_scale=0.5,
    nepochs=3,
    snapshot_iter=1,
    batch=4,
    crop=96,
    window=256,
    num_workers=1,
    epoch=f"min({EPOCH}, 80)  # 80: for first results",
)
EXAMPLES = """examples:
  python -m furnace.tools.new_experiment leaves --images ~/leaves/images --masks ~/leaves/masks
  python -m furnace.tools.new_experiment roads --images a --masks b --classes sky,road,car --val 0.3
"""
CONFIG = '''"""{name}: {total} images, {masks} of them with masks; made by furnace.tools.new_experiment.

Assign any setting of `python train.py --settings`; settings that are not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data
C.dataset_name = "{name}"
C.dataset_path = {root!r}
C.train_source = f"{{C.volna}}/DATA/{name}/labeled.txt"
C.unsup_source = f"{{C.volna}}/DATA/{name}/unlabeled.txt"
C.eval_source = f"{{C.volna}}/DATA/{name}/val.txt"
C.num_classes = {num_classes}
C.class_names = {class_names}
C.image_height = C.image_width = {crop}
C.train_scale_array = {scope.scales}
C.labeled_ratio = {ratio}  # about 1/labeled_ratio of the images have masks

# Method
C.unsup_weight = 1

# Network
C.backbone = "{scope.backbone}"
C.head_channels = {scope.head_channels}
C.pretrained_model = "imagenet"  # {scope.weights}; None: random weights

# Optimization
C.lr = 0.01
C.batch_size = {batch}
C.nepochs = {nepochs}
C.num_train_imgs = {train}
C.num_unsup_imgs = {unlabeled}
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = {scope.epoch}
C.num_workers = {scope.num_workers}
C.snapshot_iter = {snapshot_iter}
C.image_iter = 50

# Evaluation
C.eval_crop_size = {window}
C.eval_scale_array = [{scope.eval_scale:g}]
'''


@dataclass(frozen=True)
class Data:
    """The user's data: samples of three lists, the smallest height and width, and the values in the masks.

    `names` of the classes are empty if they are not given; `root` is a folder with all images and masks.
    """

    root: Path
    train: list[Sample]
    val: list[Sample]
    unlabeled: list[Sample]
    size: tuple[int, int]
    values: list[int]
    names: list[str]
    num_classes: int


def main(argv: list[str] | None = None) -> None:
    """Pair images and masks, divide them, and write the lists and the experiment's folder."""
    args = build_parser().parse_args(argv)
    name = args.name.removeprefix("exp_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r}: a name consists of lower-case letters, digits and _, and starts with a letter")
    folder, lists = args.root / f"exp_{name}", data_root(args.root) / "DATA" / name
    if folder.exists():
        raise UserError(f"{folder}: already exists; choose another name or remove it")
    if name in CATALOG:
        raise UserError(f"{lists}: belongs to another data set; choose another name")
    data = survey(args.images.expanduser().resolve(), args.masks.expanduser().resolve(), args.classes, args.val)
    if not os.access(existing_part(args.root), os.W_OK):
        raise UserError(f"{args.root}: is not writable; name another folder with --root")
    write_lists(lists, {"labeled": data.train, "val": data.val, "unlabeled": data.unlabeled}, data.root)
    write_folder(folder, config_text(name, data, CPU if args.cpu else GPU), args.root.resolve())
    console = open_console(highlight=False)
    if missing := sorted(set(range(data.num_classes)) - set(data.values)):
        advice = "; do the indices start at 1? They must start at 0" if missing == [0] else ""
        console.print(f"note: no mask contains {few(missing)}{advice}", style="yellow", soft_wrap=True)
    console.print(
        f"{folder}: {len(data.train)} training images with masks and {len(data.unlabeled)} without, {len(data.val)} "
        f"validation images, {data.num_classes} classes; next: cd {shlex.quote(os.path.relpath(folder))} && "
        "python train.py --dry-run",
        soft_wrap=True,
    )


def survey(images: Path, masks: Path, classes: str | None, share: float) -> Data:
    """Pair the files of two folders, read all masks, and divide the pairs.

    Args:
        images, masks: the folders.
        classes: names as the user gave them.
        share: of the pairs for validation.

    Raises:
        UserError: there are too few files, or the masks do not contain the indices of the classes.
    """
    labeled, unlabeled = datasets.pairing.pair(images, masks)
    kinds, size = datasets.pairing.survey(labeled)
    datasets.pairing.check_binary(kinds)
    values = sorted(set().union(*kinds) - {IGNORE_INDEX})
    names, num_classes = chosen_classes(classes, values, masks)
    train, val = datasets.pairing.divide(labeled, share)
    if len(unlabeled) < MIN_UNLABELED:
        raise UserError(
            f"{images}: {len(unlabeled)} images without masks, but training needs at least {MIN_UNLABELED}; add "
            "similar images, which need no masks"
        )
    root = Path(os.path.commonpath([images, masks]))
    return Data(root, train, val, unlabeled, size, values, names, num_classes)


def config_text(name: str, data: Data, scope: Scope) -> str:
    """The config.py of an experiment."""
    masks = len(data.train) + len(data.val)
    total = masks + len(data.unlabeled)
    batch = min(scope.batch, len(data.train), len(data.unlabeled))
    nepochs = max(scope.nepochs, math.ceil(LEAST_ITERATIONS / (max(len(data.train), len(data.unlabeled)) // batch)))
    return CONFIG.format(
        scope=scope,
        name=name,
        total=total,
        masks=masks,
        root=str(data.root),
        num_classes=data.num_classes,
        class_names=data.names,
        crop=max(min(min(data.size) // CROP_STEP * CROP_STEP, scope.crop), CROP_STEP),
        ratio=max(total // masks, 1),
        batch=batch,
        nepochs=nepochs,
        snapshot_iter=max(scope.snapshot_iter, nepochs // SNAPSHOTS),
        train=len(data.train),
        unlabeled=len(data.unlabeled),
        window=min(max(data.size), scope.window),
    )


def chosen_classes(given: str | None, values: list[int], masks: Path) -> tuple[list[str], int]:
    """Names of the classes, empty if none are `given`, and their number, for the sorted `values` in the masks.

    Raises:
        UserError: the names can't be used, or the values are not the indices of the classes.
    """
    names = [name.strip() for name in given.split(",")] if given else []
    if not are_class_names(names):
        raise UserError(f"--classes {one_line(given)}: {NAMES_MUST}")
    num_classes = len(names) or values[-1] + 1
    if not names and 2 * len(values) < num_classes:
        raise UserError(
            f"{masks}: the masks contain {few(values, 6)} instead of class indices 0, 1, 2 and so on; renumber them, "
            f"or name all {num_classes} classes with --classes"
        )
    if values[-1] >= num_classes:
        raise UserError(f"--classes: {num_classes} names, but the masks contain the value {values[-1]}; name them all")
    if num_classes < 2:
        raise UserError(
            f"{masks}: the masks contain only class 0 ({IGNORE_INDEX} means unknown); mark the objects with 1"
        )
    return names, num_classes


def write_lists(folder: Path, lists: dict[str, list[Sample]], root: Path) -> None:
    """Write lists by name; equal lists from an interrupted call are kept.

    Raises:
        UserError: the folder contains other lists.
    """
    lines = {folder / f"{name}.txt": [line_of(sample, root) for sample in lists[name]] for name in lists}
    try:
        if not set(folder.glob("*.txt")) <= lines.keys():
            raise UserError("other lists")
        for path in lines:
            check_replaceable(path, lines[path])
    except UserError as error:
        raise UserError(f"{folder}: belongs to another data set; choose another name") from error
    for path in lines:
        write_list(path, lines[path])


def write_folder(folder: Path, config: str, root: Path) -> None:
    """Create an experiment's folder with config.py and its commands, completely or not at all."""
    with explained(folder), TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary, folder.name)
        whole.mkdir()
        (whole / "config.py").write_text(config, encoding="utf-8")
        for command in COMMANDS:
            text = (CHECKOUT / PATTERN / command).read_text(encoding="utf-8")
            if root != CHECKOUT:  # else the parent folder contains furnace
                text = text.replace("str(HERE.parent)", repr(str(CHECKOUT)))
            (whole / command).write_text(text, encoding="utf-8")
        whole.rename(folder)


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Create an experiment for your own images: lists in DATA/NAME and the folder exp_NAME.\n"
        "Masks contain one class index per pixel (255: unknown) and have the names of their images; the files stay\n"
        "where they are.",
        epilog=EXAMPLES,
    )
    parser.add_argument("name", help="name of the experiment; its folder is exp_NAME")
    parser.add_argument("--images", type=Path, required=True, help="folder of all images, searched recursively")
    parser.add_argument(
        "--masks", type=Path, required=True, help="folder of their masks (PNG, TIFF, BMP); not every image needs one"
    )
    parser.add_argument("--classes", help="class names in the order of the indices, separated by commas")
    parser.add_argument("--val", type=float, default=0.2, help="share of the masks for validation (default: 0.2)")
    parser.add_argument("--cpu", action="store_true", help="settings for first results in minutes, without a GPU")
    parser.add_argument(
        "--root",
        type=Path,
        default=CHECKOUT,
        help="parent folder of exp_NAME, and of DATA unless the environment variable volna is set (default: checkout)",
    )
    return parser


def line_of(sample: Sample, root: Path) -> str:
    """An image's line in a list, with its mask if it has one."""
    paths = [path.relative_to(root).as_posix() for path in (sample.image, sample.label) if path]
    return "\t".join(paths)


if __name__ == "__main__":
    run(main)
