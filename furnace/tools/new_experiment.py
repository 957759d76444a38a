"""An experiment for your own images: python -m furnace.tools.new_experiment NAME --images ... --masks ..."""

import os
import re
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from furnace import datasets
from furnace.datasets.catalog import CATALOG
from furnace.datasets.splits import Sample, check_replaceable, read_list, write_list
from furnace.methods.settings import load_config
from furnace.tools.own_config import CPU, GPU, Data, config_text
from furnace.utils.arguments import Parser
from furnace.utils.config import CONFIG
from furnace.utils.errors import UserError, run
from furnace.utils.files import existing_part, explained
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.places import CHECKOUT, data_root
from furnace.utils.setting_types import NAMES_MUST, are_class_names
from furnace.utils.terminal import open_console
from furnace.utils.wording import few, one_line

PATTERN = "exp_toy"  # source of the copied commands, which are the same in every experiment
COMMANDS = ("train.py", "eval.py", "predict.py", "export.py")
MIN_UNLABELED = 2  # the smallest batch: BatchNorm learns nothing from one image
VAL = 0.2  # share of the masks for validation
EXAMPLES = """examples:
  python -m furnace.tools.new_experiment leaves --images ~/leaves/images --masks ~/leaves/masks
  python -m furnace.tools.new_experiment roads --images a --masks b --classes sky,road,car --val 0.3
  python -m furnace.tools.new_experiment roads --images a --masks b --update     more images or masks since then
"""


def main(argv: list[str] | None = None) -> None:
    """Create an experiment on a user's images, or update its lists."""
    args = build_parser().parse_args(argv)
    name = args.name.removeprefix("exp_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r}: a name consists of lower-case letters, digits and _, and starts with a letter")
    folder = args.root / f"exp_{name}"
    images, masks = (path.expanduser().resolve() for path in (args.images, args.masks))
    notes, done = update(folder, images, masks, args) if args.update else create(folder, name, images, masks, args)
    console = open_console(highlight=False)
    for note in notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    console.print(
        f"{folder}: {done}; next: cd {shlex.quote(os.path.relpath(folder))} && python train.py --dry-run",
        soft_wrap=True,
    )


def create(folder: Path, name: str, images: Path, masks: Path, args: Namespace) -> tuple[list[str], str]:
    """Pair images and masks, divide them, and write the lists and the experiment's folder.

    Returns:
        notes, and a description of the lists.
    """
    lists = data_root(args.root) / "DATA" / name
    if folder.exists():
        raise UserError(f"{folder}: already exists; add --update for new images and masks, or choose another name")
    if name in CATALOG:
        raise UserError(f"{lists}: belongs to another data set; choose another name")
    data = survey(images, masks, args.classes, VAL if args.val is None else args.val)
    if not os.access(existing_part(args.root), os.W_OK):
        raise UserError(f"{args.root}: is not writable; name another folder with --root")
    write_lists(lists, {"labeled": data.train, "val": data.val, "unlabeled": data.unlabeled}, data.root)
    write_folder(folder, config_text(name, data, CPU if args.cpu else GPU), args.root.resolve())
    notes = []
    if missing := sorted(set(range(data.num_classes)) - set(data.values)):
        advice = "; do the indices start at 1? They must start at 0" if missing == [0] else ""
        notes.append(f"no mask contains {few(missing)}{advice}")
    return notes, (
        f"{len(data.train)} training images with masks and {len(data.unlabeled)} without, {len(data.val)} validation "
        f"images, {data.num_classes} classes"
    )


def update(folder: Path, images: Path, masks: Path, args: Namespace) -> tuple[list[str], str]:
    """Add images and masks to the lists of an experiment; its config.py and validation images stay.

    New masks are for training, so that scores of before and after compare. Lines whose files are gone are removed.

    Returns:
        notes, and a description of the lists.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such experiment; leave out --update to make it")
    for option in ("classes", "val", "cpu"):
        if getattr(args, option) not in (None, False):
            raise UserError(f"--{option}: is for new experiments; edit {folder / CONFIG} instead")
    C, config = load_config(folder.resolve()), folder / CONFIG
    lists = data_root(args.root).resolve() / "DATA" / folder.name.removeprefix("exp_")
    for name in ("train_source", "unsup_source", "eval_source"):
        if Path(getattr(C, name)).resolve().parent != lists:
            raise UserError(f"C.{name} = {getattr(C, name)}: is not in {lists}; --update changes only lists there")
    labeled, unlabeled = datasets.pairing.pair(images, masks)
    kinds, _ = datasets.pairing.survey(labeled)
    datasets.pairing.check_binary(kinds)
    for values, mask in kinds.items():
        if wrong := set(values) - {*range(C.num_classes), IGNORE_INDEX}:
            raise UserError(f"{mask}: contains class {min(wrong)}, but C.num_classes = {C.num_classes} in {config}")
    before = read_list(C.train_source, C.dataset_path), read_list(C.unsup_source, C.dataset_path, labeled=False)
    val = read_list(C.eval_source, C.dataset_path)
    train, unlabeled = datasets.pairing.joined(before, (labeled, unlabeled), val)
    check_unlabeled(unlabeled, images)
    for path, samples in ((C.train_source, train), (C.unsup_source, unlabeled)):
        write_list(path, [line_of(sample, Path(C.dataset_path)) for sample in samples], overwrite=True)
    notes, counts = [], (len(train), len(unlabeled))
    if (C.num_train_imgs, C.num_unsup_imgs) not in ((None, None), counts):
        notes.append(
            f"C.num_train_imgs = {C.num_train_imgs} and C.num_unsup_imgs = {C.num_unsup_imgs} in "
            f"{config} set the length of an epoch; there are {counts[0]} and {counts[1]} now"
        )
    new = len({sample.image for sample in train} - {sample.image for sample in before[0]})
    with_masks = f"{len(train)} training images with masks ({new} new)"
    return notes, f"{with_masks} and {len(unlabeled)} without, {len(val)} validation images"


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
    names, num_classes = chosen_classes(classes, values, next(kinds[kind] for kind in kinds if values[-1] in kind))
    train, val = datasets.pairing.divide(labeled, share)
    check_unlabeled(unlabeled, images)
    root = Path(os.path.commonpath([images, masks]))
    return Data(root, train, val, unlabeled, size, values, names, num_classes)


def check_unlabeled(unlabeled: list[Sample], images: Path) -> None:
    """Raise UserError if too few images have no mask."""
    if len(unlabeled) < MIN_UNLABELED:
        raise UserError(
            f"{images}: {len(unlabeled)} images without masks, but training needs at least {MIN_UNLABELED}; add "
            "similar images, which need no masks"
        )


def chosen_classes(given: str | None, values: list[int], highest: Path) -> tuple[list[str], int]:
    """Names of the classes, empty if none are `given`, and their number.

    Args:
        given: the names as the user gave them, or None.
        values: in the masks, sorted.
        highest: path of a mask with the highest value.

    Raises:
        UserError: the names can't be used, or the values are not the indices of the classes.
    """
    names = [name.strip() for name in given.split(",")] if given else []
    if not are_class_names(names):
        raise UserError(f"--classes {one_line(given)}: {NAMES_MUST}")
    num_classes = len(names) or values[-1] + 1
    if not names and 2 * len(values) < num_classes:
        raise UserError(
            f"{highest}: contains {values[-1]}, and all masks {few(values, 6)} instead of class indices 0, 1, 2 and so "
            f"on; correct or renumber them, or name all {num_classes} classes with --classes"
        )
    if values[-1] >= num_classes:
        raise UserError(
            f"{highest}: contains {values[-1]}, but --classes has {num_classes} names, for 0 to {num_classes - 1}; "
            "name all classes, or correct the mask"
        )
    if num_classes < 2:
        raise UserError(
            f"{highest.parent}: the masks contain only class 0 ({IGNORE_INDEX} means unknown); mark the objects with 1"
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
        (whole / CONFIG).write_text(config, encoding="utf-8")
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
    parser.add_argument("--val", type=float, help=f"share of the masks for validation (default: {VAL})")
    parser.add_argument(
        "--update", action="store_true", help="add new images and masks to the lists of an existing experiment"
    )
    parser.add_argument("--cpu", action="store_true", help="settings for first results in minutes, without a GPU")
    parser.add_argument(
        "--root",
        type=Path,
        default=CHECKOUT,
        help="parent folder of exp_NAME, and of DATA unless the environment variable volna is set (default: checkout)",
    )
    return parser


def line_of(sample: Sample, root: Path) -> str:
    """An image's line in a list, with its mask if it has one; files outside of `root` have absolute paths."""
    paths = [path for path in (sample.image, sample.label) if path]
    return "\t".join((path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in paths)


if __name__ == "__main__":
    run(main)
