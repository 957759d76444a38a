"""An experiment for your own images: python -m furnace.tools.new_experiment NAME --images ... --masks ..."""

import os
import re
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from furnace.datasets.catalog import CATALOG
from furnace.methods.settings import load_config
from furnace.tools.own_config import CPU, GPU, config_text
from furnace.tools.own_lists import check_sources, create_lists, survey, update_lists
from furnace.utils.arguments import Parser, user_path
from furnace.utils.config import CONFIG
from furnace.utils.errors import UserError, run
from furnace.utils.files import existing_part, explained, write_atomically
from furnace.utils.locks import file_locked
from furnace.utils.places import CHECKOUT, data_root
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console
from furnace.utils.wording import few

PATTERN = "exp_toy"  # source of the copied commands, which are the same in every experiment
COMMANDS = ("train.py", "eval.py", "predict.py", "export.py")
VAL = 0.2  # share of the masks for validation
EXAMPLES = """examples:
  python -m furnace.tools.new_experiment leaves --images ~/leaves/images --masks ~/leaves/masks
  python -m furnace.tools.new_experiment roads --images a --masks b --classes sky,road,car --val 0.3
  python -m furnace.tools.new_experiment roads --images a --masks b --update     more images or masks since then
"""


def main(argv: list[str] | None = None) -> None:
    """Create an experiment on a user's images, or update its lists."""
    args = build_parser().parse_args(argv)
    name = args.name.rstrip("/").removeprefix("exp_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r}: a name consists of lower-case letters, digits and _, and starts with a letter")
    folder = args.root / f"exp_{name}"
    images, masks = (path and path.resolve() for path in (args.images, args.masks))
    if masks is None and not args.update:
        raise UserError("--masks: is needed for a new experiment; name the folder of the masks")
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
        hint = "add --update for new images and masks, or " if lists.exists() else ""
        raise UserError(f"{folder}: already exists; {hint}choose another name")
    if name in CATALOG:
        raise UserError(f"{lists}: belongs to another data set; choose another name")
    data = survey(images, masks, args.classes, VAL if args.val is None else args.val)
    if not os.access(existing_part(args.root), os.W_OK):
        raise UserError(f"{args.root}: is not writable; name another folder with --root")
    create_lists(lists, {"labeled": data.train, "val": data.val, "unlabeled": data.unlabeled}, data.root)
    write_folder(folder, config_text(name, data, CPU if args.cpu else GPU), args.root.resolve())
    notes = []
    if missing := sorted(set(range(data.num_classes)) - set(data.values)):
        advice = "; do the indices start at 1? They must start at 0" if missing == [0] else ""
        notes.append(f"no mask contains {few(missing)}{advice}")
    return notes, (
        f"{len(data.train)} training images with masks and {len(data.unlabeled)} without, {len(data.val)} validation "
        f"images, {data.num_classes} classes"
    )


def update(folder: Path, images: Path, masks: Path | None, args: Namespace) -> tuple[list[str], str]:
    """Add images and masks to the lists of an experiment, and their numbers to config.py; validation images stay.

    Returns:
        notes, and a description of the lists.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such experiment; leave out --update to make it")
    config = folder / CONFIG
    for option in ("classes", "val", "cpu"):
        if (value := getattr(args, option)) is not None and value is not False:
            raise UserError(f"--{option}: is for new experiments; edit {config} instead")
    lists = data_root(args.root) / "DATA" / folder.name.removeprefix("exp_")
    check_sources(load_config(folder.resolve()), lists)
    with file_locked(lists / "update", wait=-1):  # another update would lose these images
        C = load_config(folder.resolve())
        found = update_lists(C, images, masks)
        train, unlabeled = len(found.after.labeled), len(found.after.unlabeled)
        notes = [*found.notes(), *update_counts(config, C, {"num_train_imgs": train, "num_unsup_imgs": unlabeled})]
    with_masks = f"{train} training images with masks ({found.new} new)"
    return notes, f"{with_masks} and {unlabeled} without, {len(found.val)} validation images"


def update_counts(config: Path, C: Settings, counts: dict[str, int]) -> list[str]:
    """Replace numbers that a config.py assigns to settings; return notes on these, and on numbers in other forms."""
    text, notes = config.read_text(encoding="utf-8"), []
    for name, count in counts.items():
        if getattr(C, name) in (None, count):
            continue
        notes.append(f"{config}: C.{name} = {count}, was {getattr(C, name)}")
        if assigned := re.search(rf"^C\.{name} *= *({getattr(C, name)}) *(#.*)?$", text, re.MULTILINE):
            text = text[: assigned.start(1)] + str(count) + text[assigned.end(1) :]
        else:
            notes[-1] = f"{config}: C.{name} = {getattr(C, name)} sets the length of an epoch; there are {count} now"
    write_atomically(config, text.encode())
    return notes


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
    parser.add_argument("--images", type=user_path, required=True, help="folder of all images, searched recursively")
    parser.add_argument(
        "--masks",
        type=user_path,
        help="folder of their masks (PNG, TIFF, BMP), not of all images; optional with --update",
    )
    parser.add_argument("--classes", help="class names in the order of the indices, separated by commas")
    parser.add_argument("--val", type=float, help=f"share of the masks for validation (default: {VAL})")
    parser.add_argument(
        "--update", action="store_true", help="add new images and masks to the lists of an existing experiment"
    )
    parser.add_argument("--cpu", action="store_true", help="settings for first results in minutes, without a GPU")
    parser.add_argument(
        "--root",
        type=user_path,
        default=CHECKOUT,
        help="parent folder of exp_NAME, and of DATA unless the environment variable volna is set (default: checkout)",
    )
    return parser


if __name__ == "__main__":
    run(main)
