"""Begin an experiment on one's own images: python -m furnace.tools.new_experiment NAME --images ... --masks ..."""

import os
import re
import shlex
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from furnace.datasets.catalog import CATALOG
from furnace.datasets.folders import composed, find_files, walk
from furnace.datasets.reading import check_sizes, read_image, read_label
from furnace.datasets.splits import LABEL_SUFFIXES, Sample, check_replaceable, read_list, write_list
from furnace.utils.errors import UserError, run
from furnace.utils.files import explained
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.places import CHECKOUT, data_root
from furnace.utils.settings import NAMES_MUST, are_class_names
from furnace.utils.terminal import open_console
from furnace.utils.wording import few, one_line

PATTERN = "exp_toy"  # whose commands are copied; they are the same everywhere
COMMANDS = ("train.py", "eval.py", "predict.py", "export.py")
MASK_SUFFIXES = ("", "_mask", "_label", "_gtFine", "_labelIds", "_L")  # after the image's name
MIN_MASKS = 3  # two for a batch, one to validate with
MIN_UNLABELED = 2  # for a batch: BatchNorm learns nothing from one
CROP_STEP = 32


@dataclass(frozen=True)
class Scope:
    """Recipe for a machine: settings, the largest batch, crop and evaluation window, and the iterations an epoch."""

    backbone: str
    head_channels: int
    scales: list[float]
    eval_scale: float
    nepochs: int
    batch: int
    crop: int
    window: int
    num_workers: int
    epoch: str


EPOCH = "C.max_samples // C.batch_size"
GPU = Scope("resnet50", 256, [0.5, 0.75, 1, 1.5, 1.75, 2.0], 1, 40, 8, 512, 512, 4, EPOCH)
# A first look in minutes, however many images there are: half the resolution, and short.
CPU = Scope("resnet18", 64, [0.35, 0.5, 0.65], 0.5, 3, 4, 96, 256, 1, f"min({EPOCH}, 80)  # 80: for a first look")
EXAMPLES = """examples:
  python -m furnace.tools.new_experiment leaves --images ~/leaves/images --masks ~/leaves/masks
  python -m furnace.tools.new_experiment roads --images a --masks b --classes sky,road,car --val 0.3
"""
CONFIG = '''"""{name}: {total} images, {masks} of them with masks; made by furnace.tools.new_experiment.

Assign any setting of `python train.py --settings`; what is not assigned here keeps its default.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that holds DATA; the environment variable of this name wins

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
C.labeled_ratio = {ratio}  # about 1 of so many images has a mask

# Method
C.unsup_weight = 1

# Network
C.backbone = "{scope.backbone}"
C.head_channels = {scope.head_channels}
C.pretrained_model = None  # "imagenet" scores far higher, and is downloaded once

# Optimization
C.lr = 0.01
C.batch_size = {batch}
C.nepochs = {scope.nepochs}
C.num_train_imgs = {train}
C.num_unsup_imgs = {unlabeled}
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = {scope.epoch}
C.num_workers = {scope.num_workers}
C.snapshot_iter = 1
C.image_iter = 50

# Evaluation
C.eval_crop_size = {window}
C.eval_scale_array = [{scope.eval_scale:g}]
'''


def main(argv: list[str] | None = None) -> None:
    """Pair images and masks, divide them, and write lists and folder."""
    args = build_parser().parse_args(argv)
    args.name = args.name.removeprefix("exp_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", args.name):
        raise UserError(f"{args.name!r}: as a name take small letters, digits and _, beginning with a letter")
    folder, lists = args.root / f"exp_{args.name}", data_root(args.root) / "DATA" / args.name
    if folder.exists():
        raise UserError(f"{folder}: already exists; take another name, or remove it")
    if args.name in CATALOG:
        raise UserError(f"{lists}: is the place of another data set; take another name")
    images, masks = args.images.expanduser().resolve(), args.masks.expanduser().resolve()
    labeled, unlabeled = pair(images, masks)
    kinds, size = survey(labeled)
    check_binary(kinds)
    values = np.array(sorted(set().union(*kinds) - {IGNORE_INDEX}))
    names = [name.strip() for name in args.classes.split(",")] if args.classes else []
    if not are_class_names(names):
        raise UserError(f"--classes {one_line(args.classes)}: {NAMES_MUST}")
    num_classes = len(names) or int(values.max()) + 1
    if not names and 2 * len(values) < num_classes:
        raise UserError(
            f"{masks}: the masks hold {few(values, 6)}, where class indices would be 0, 1, 2 and so on; renumber them, "
            f"or name all {num_classes} classes with --classes"
        )
    if values.max() >= num_classes:
        raise UserError(f"--classes: {num_classes} names, but the masks hold the value {values.max()}; name them all")
    if num_classes < 2:
        raise UserError(
            f"{masks}: the masks hold the class 0 only, and {IGNORE_INDEX} means unknown; give what you look for 1"
        )
    train, val = divide(labeled, args.val)
    if len(unlabeled) < MIN_UNLABELED:
        raise UserError(
            f"{images}: {len(unlabeled)} images without masks to learn from, and a batch takes {MIN_UNLABELED} at "
            "least; add pictures of the same kind, which need no masks"
        )

    root = Path(os.path.commonpath([images, masks]))
    write_lists(lists, {"labeled": train, "val": val, "unlabeled": unlabeled}, root)
    scope = CPU if args.cpu else GPU
    text = CONFIG.format(
        scope=scope,
        name=args.name,
        total=len(labeled) + len(unlabeled),
        masks=len(labeled),
        root=str(root),
        num_classes=num_classes,
        class_names=names,
        crop=max(min(min(size) // CROP_STEP * CROP_STEP, scope.crop), CROP_STEP),
        ratio=max((len(labeled) + len(unlabeled)) // len(labeled), 1),
        batch=min(scope.batch, len(train), len(unlabeled)),
        train=len(train),
        unlabeled=len(unlabeled),
        window=min(max(size), scope.window),
    )
    write_folder(folder, text, args.root.resolve())
    console = open_console(highlight=False)
    if missing := sorted(set(range(num_classes)) - set(values.tolist())):
        advice = "; do they count from 1? Class indices begin at 0" if missing == [0] else ""
        console.print(f"note: no mask holds {few(missing)}{advice}", style="yellow", soft_wrap=True)
    console.print(
        f"{folder}: {len(train)} images with masks and {len(unlabeled)} without to learn from, {len(val)} to validate "
        f"with, {num_classes} classes; next: cd {shlex.quote(os.path.relpath(folder))} && python train.py --dry-run",
        soft_wrap=True,
    )


def write_lists(folder: Path, lists: dict[str, list[Sample]], root: Path) -> None:
    """Write lists by their names; those that an interrupted call has left are the same, and stay.

    Raises:
        UserError: the folder holds other lists.
    """
    lines = {folder / f"{name}.txt": [line_of(sample, root) for sample in lists[name]] for name in lists}
    try:
        if not set(folder.glob("*.txt")) <= lines.keys():
            raise UserError("other lists")
        for path in lines:
            check_replaceable(path, lines[path])
    except UserError as error:
        raise UserError(f"{folder}: is the place of another data set; take another name") from error
    for path in lines:
        write_list(path, lines[path])


def write_folder(folder: Path, config: str, root: Path) -> None:
    """Make an experiment's folder below `root`, with its commands, whole or not at all."""
    with explained(folder), TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary, folder.name)
        whole.mkdir()
        (whole / "config.py").write_text(config, encoding="utf-8")
        for command in COMMANDS:
            text = (CHECKOUT / PATTERN / command).read_text(encoding="utf-8")
            if root != CHECKOUT:  # else the folder above is where furnace lies
                text = text.replace("str(HERE.parent)", repr(str(CHECKOUT)))
            (whole / command).write_text(text, encoding="utf-8")
        whole.rename(folder)


def build_parser() -> ArgumentParser:
    """The command's arguments."""
    parser = ArgumentParser(
        description="Begin an experiment on your own images: lists in DATA/NAME, and a folder exp_NAME to train in.\n"
        "Masks hold one class index a pixel, 255 where unknown, and have the names of their images; the files stay\n"
        "where they are.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of the experiment: its folder is exp_NAME")
    parser.add_argument("--images", type=Path, required=True, help="folder of all images, searched recursively")
    parser.add_argument("--masks", type=Path, required=True, help="folder of the masks of some of them, PNG")
    parser.add_argument("--classes", help="their names in the order of the indices, separated by commas")
    parser.add_argument("--val", type=float, default=0.2, help="share of the masks to validate with (default: 0.2)")
    parser.add_argument("--cpu", action="store_true", help="settings for a first look in minutes, without a GPU")
    parser.add_argument(
        "--root",
        type=Path,
        default=CHECKOUT,
        help="where exp_NAME goes, and DATA unless the environment variable volna says where (default: this checkout)",
    )
    return parser


class Masks:
    """The masks of a folder, by their names. Raises UserError if two have the same."""

    def __init__(self, folder: Path):
        self.by_path: dict[str, Path] = {}
        self.by_stem: dict[str, list[Path]] = {}
        for path in find_files(folder, LABEL_SUFFIXES):
            name = composed(path.relative_to(folder).with_suffix("").as_posix())
            if (other := self.by_path.setdefault(name, path)) != path:
                raise UserError(f"{path} and {other}: two masks of one name; move one of them away")
            self.by_stem.setdefault(composed(path.stem), []).append(path)

    def choose(self, images: list[Path]) -> list[Path | None]:
        """The masks of images, paths without suffix: at the same place, or else the only one of the name that is left.

        Raises:
            UserError: one fits two images.
        """
        placed = {image: mask for image in images if (mask := self._first(self.by_path, image.as_posix()))}
        taken = {mask: image for image, mask in placed.items()}
        by_name = {name: paths[0] for name, paths in self.by_stem.items() if len(paths) == 1 and paths[0] not in taken}
        for image in images:
            if image not in placed and (mask := self._first(by_name, image.name)):
                if mask in taken:
                    raise UserError(f"{mask}: fits both {taken[mask]} and {image}; put masks into sub-folders, too")
                placed[image], taken[mask] = mask, image
        if left := [path for path in self.by_path.values() if path not in taken]:
            raise UserError(f"{left[0]}: fits no image; a mask has its image's name")
        return [placed.get(image) for image in images]

    def _first(self, masks: dict[str, Path], name: str) -> Path | None:
        found = (masks.get(composed(name) + suffix) for suffix in MASK_SUFFIXES)
        return next((mask for mask in found if mask), None)


def pair(images: Path, masks: Path) -> tuple[list[Sample], list[Sample]]:
    """The images with masks, and those without. Raises UserError if a folder is missing or masks fit no image."""
    if images == masks:
        raise UserError(f"{images}: holds both images and masks; put the masks into a folder of their own")
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    samples = [s for s in read_list(images, images, labeled=False) if not s.image.is_relative_to(masks)]
    chosen = Masks(masks).choose([sample.image.relative_to(images).with_suffix("") for sample in samples])
    pairs = list(zip(samples, chosen, strict=True))
    labeled = [replace(sample, label=mask) for sample, mask in pairs if mask]
    if len(labeled) < MIN_MASKS:
        others = f" (of {len(walk(masks))} files in all)" if not labeled else ""
        raise UserError(
            f"{masks}: {len(labeled)} masks with images{others}; {MIN_MASKS} are the least, some dozens a good start"
        )
    return labeled, [sample for sample, mask in pairs if not mask]


def survey(labeled: list[Sample]) -> tuple[dict[tuple[int, ...], Path], tuple[int, int]]:
    """The sets of values that masks hold, each with one that does, and the smallest height and width.

    Raises:
        UserError: a mask can't be used, or none holds a class.
    """
    kinds, sizes = {}, []
    for sample in labeled:
        label = read_label(sample.label, IGNORE_INDEX)
        check_sizes(sample, read_image(sample.image).shape[:2], label.shape)
        kinds.setdefault(tuple(np.unique(label).tolist()), sample.label)
        sizes.append(label.shape)
    if kinds.keys() == {(IGNORE_INDEX,)}:
        raise UserError(f"{labeled[0].label.parent}: all masks hold {IGNORE_INDEX} only, which means unknown")
    return kinds, tuple(np.min(sizes, axis=0).tolist())


def check_binary(kinds: dict[tuple[int, ...], Path]) -> None:
    """Raise UserError if 255 seems to stand for a class, as in masks of black and white."""
    white = kinds.get((0, IGNORE_INDEX))
    if white and set().union(*kinds) == {0, IGNORE_INDEX}:
        raise UserError(
            f"{white}: the masks hold 0 and {IGNORE_INDEX} only, and {IGNORE_INDEX} means unknown; write 1 for what "
            f"you look for, such as by: mogrify -evaluate divide {IGNORE_INDEX} *.png"
        )
    if white and (0, 1) in kinds and kinds.keys() <= {(0,), (1,), (0, 1), (0, IGNORE_INDEX)}:
        raise UserError(
            f"{white}: holds 0 and {IGNORE_INDEX} only, but {kinds[0, 1]} 0 and 1; {IGNORE_INDEX} means unknown: write "
            "all masks alike"
        )


def divide(labeled: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples, the latter evenly spread. Raises UserError for a share that leaves nothing."""
    if not 0 < share < 1:  # nor NaN
        raise UserError(f"--val {share:g}: must lie between 0 and 1")
    count = max(round(share * len(labeled)), 1)
    if len(labeled) - count < 2:
        raise UserError(
            f"--val {share:g}: leaves {len(labeled) - count} of {len(labeled)} masks to learn from; two at least"
        )
    chosen = {int((i + 0.5) * len(labeled) / count) for i in range(count)}
    return [s for i, s in enumerate(labeled) if i not in chosen], [labeled[i] for i in sorted(chosen)]


def line_of(sample: Sample, root: Path) -> str:
    """An image's line in a list, with its mask if it has one."""
    paths = [path.relative_to(root).as_posix() for path in (sample.image, sample.label) if path]
    return "\t".join(paths)


if __name__ == "__main__":
    run(main)
