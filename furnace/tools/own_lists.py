"""Lists of a user's own images: of a new experiment, or with images and masks that came later."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from furnace import datasets
from furnace.datasets.splits import Lists, Sample, check_replaceable, read_list, write_lists
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.setting_types import NAMES_MUST, are_class_names
from furnace.utils.settings import Settings
from furnace.utils.wording import counted, few, one_line

MIN_LABELED = MIN_UNLABELED = 2  # the smallest batch: BatchNorm learns nothing from one image


@dataclass(frozen=True)
class Data:
    """The user's data: samples of three lists, the usual height and width, and the values in the masks.

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
    of_masks, size = datasets.pairing.survey(labeled)
    datasets.pairing.check_binary(labeled, of_masks)
    values = sorted(set().union(*of_masks) - {IGNORE_INDEX})
    highest = next(sample.label for sample, own in zip(labeled, of_masks, strict=True) if values[-1] in own)
    names, num_classes = chosen_classes(classes, values, highest)
    train, val = datasets.pairing.divide(labeled, of_masks, share)
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


def create_lists(folder: Path, lists: dict[str, list[Sample]], root: Path) -> None:
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
        raise UserError(f"{folder}: has lists of another data set; choose another name, or remove them") from error
    write_lists(lines)


@dataclass(frozen=True)
class Update:
    """Lists before and after an update, and the validation images."""

    before: Lists
    after: Lists
    val: list[Sample]

    @property
    def new(self) -> int:
        """Number of images whose masks are new."""
        return len({s.image for s in self.after.labeled} - {s.image for s in self.before.labeled})

    def notes(self) -> Iterator[str]:
        """Yield a line for each kind of change besides new files."""
        held = [sample.image for sample in self.val]
        lines = [*self.before.labeled, *self.before.unlabeled]
        labels = {sample.image: sample.label for sample in self.after.labeled}
        kinds = {
            "removed, as the images are gone": [s for s in lines if not s.image.is_file()],
            "removed, as they are for validation": datasets.inspection.among(lines, held),
            "unlabelled now, as the masks are gone": [
                s for s in self.before.labeled if s.image.is_file() and not s.label.is_file()
            ],
            "with another mask now": [s for s in self.before.labeled if labels.get(s.image, s.label) != s.label],
        }
        for what, samples in kinds.items():
            if samples:
                yield f"{counted(len(samples), 'image')} {what}: {few(sample.image for sample in samples)}"
        for copy in self.copies():
            yield f"{copy}: is a copy of a validation image; remove it, or the scores will be too high"

    def copies(self) -> list[Path]:
        """Training images with the content of a validation image."""
        sizes = {sample.image.stat().st_size for sample in self.val}
        alike = [s for s in (*self.after.labeled, *self.after.unlabeled) if s.image.stat().st_size in sizes]
        listings = [
            datasets.inspection.Listing(title, "", "", labeled=False, samples=samples)
            for title, samples in (("val", self.val), ("train", alike))
        ]
        groups = [group for group in datasets.inspection.duplicates(listings) if "val" in dict(group)]
        return [path for group in groups for title, path in group if title == "train"]


def update_lists(C: Settings, images: Path, masks: Path | None) -> Update:
    """Add images and masks to the lists of an experiment.

    New masks are for training: the validation images stay, so that scores of before and after compare. Lines whose
    files are gone are removed from the training lists.

    Args:
        C: settings of the experiment, see `check_sources`.
        images, masks: folders; None: no masks.

    Raises:
        UserError: a validation image is missing, a mask can't be used, or too few samples are left.
    """
    val = read_list(C.eval_source, C.dataset_path)
    if missing := [path for sample in val for path in (sample.image, sample.label) if not path.is_file()]:
        # Under another name they would become training images.
        raise UserError(f"{missing[0]}: no such file, but {C.eval_source} names it; restore it, or correct the list")
    before = Lists(read_list(C.train_source, C.dataset_path), read_list(C.unsup_source, C.dataset_path, labeled=False))
    used = [sample.label for sample in (*before.labeled, *val) if sample.image.is_file()]
    found = Lists(*datasets.pairing.pair(images, masks, least=0, used=used))
    after = datasets.pairing.joined(before, found, val)
    check_unlabeled(after.unlabeled, images)
    if (count := len(after.labeled)) < MIN_LABELED:
        raise UserError(f"{masks or images}: {count} training images have masks; training needs {MIN_LABELED}")
    with_masks = [*after.labeled, *val]
    values, _ = datasets.pairing.survey(with_masks, C.num_classes, C.reduce_zero_label)
    if C.num_classes == 2 and not C.reduce_zero_label:
        datasets.pairing.check_binary(with_masks, values)
    changed = {Path(C.train_source): after.labeled, Path(C.unsup_source): after.unlabeled}
    lines = {path: [line_of(sample, Path(C.dataset_path)) for sample in samples] for path, samples in changed.items()}
    write_lists(lines, overwrite=True)
    return Update(before, after, val)


def check_sources(C: Settings, lists: Path) -> None:
    """Raise UserError unless the lists of an experiment are files in a folder."""
    for name in ("train_source", "unsup_source", "eval_source"):
        path = Path(getattr(C, name))
        if path.is_dir():
            raise UserError(f"C.{name} = {path}: is a folder; put new images there, or name a list for --update")
        if path.resolve().parent != lists.resolve():
            raise UserError(f"C.{name} = {path}: is not in {lists}; --update changes only lists there")


def line_of(sample: Sample, root: Path) -> str:
    """An image's line in a list, with its mask if it has one; files outside of `root` have absolute paths."""
    paths = [path for path in (sample.image, sample.label) if path]
    return "\t".join((path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in paths)
