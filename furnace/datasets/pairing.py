"""Pair users' images and masks, check the values of the masks, and choose validation images."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from furnace.datasets.folders import composed, find_files, walk
from furnace.datasets.inspection import file_identity, turned_alone
from furnace.datasets.reading import check_sizes, read_image, read_label
from furnace.datasets.splits import LABEL_SUFFIXES, Lists, Sample, read_list
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.terminal import note

MASK_SUFFIXES = ("", "_mask", "_label", "_gtFine", "_labelIds", "_L")  # after the image's name
MIN_MASKS = 3  # two for a batch, one for validation


class Masks:
    """The masks of a folder by name, without those that are `used`. Raises UserError if two have the same name."""

    def __init__(self, folder: Path, used: Iterable[Path] = ()):
        self.by_path: dict[str, Path] = {}
        self.by_stem: dict[str, list[Path]] = {}
        others = {file_identity(path) for path in used}
        for path in find_files(folder, LABEL_SUFFIXES):
            if file_identity(path) in others:
                continue
            name = composed(path.relative_to(folder).with_suffix("").as_posix())
            if (other := self.by_path.setdefault(name, path)) != path:
                raise UserError(f"{path} and {other}: two masks of one name; move one of them away")
            self.by_stem.setdefault(composed(path.stem), []).append(path)

    def choose(self, images: list[Path]) -> list[Path | None]:
        """The masks of images (paths without suffix).

        A mask of the same path comes before the only one of the same name, and the same name before one with a suffix:
        x_L.png belongs to x_L.jpg, even if x.jpg has no mask.

        Raises:
            UserError: a mask fits two images equally well, or none.
        """
        placed, taken = {}, {}  # masks of images, and images of masks
        by_name = {name: paths[0] for name, paths in self.by_stem.items() if len(paths) == 1}
        ways = (self.by_path, Path.as_posix), (by_name, lambda image: image.name)
        for (masks, name_of), suffixes in product(ways, (MASK_SUFFIXES[:1], MASK_SUFFIXES[1:])):
            free = set(masks.values()) - taken.keys()
            for image in dict.fromkeys(images):
                names = (composed(name_of(image)) + suffix for suffix in suffixes)
                mask = next((masks[name] for name in names if masks.get(name) in free), None)
                if image in placed or mask is None:
                    continue
                if mask in taken:
                    raise UserError(f"{mask}: fits both {taken[mask]} and {image}; put masks into sub-folders, too")
                placed[image], taken[mask] = mask, image
        if twice := [image for image, count in Counter(images).items() if count > 1 and image in placed]:
            raise UserError(f"{placed[twice[0]]}: fits two images named {twice[0]}; move one of them away")
        if left := [path for path in self.by_path.values() if path not in taken]:
            swapped = "; are the two folders swapped?" if placed and len(self.by_path) > len(images) else ""
            raise UserError(f"{left[0]}: fits no image; a mask has its image's name{swapped}")
        return [placed.get(image) for image in images]


def pair(
    images: Path, masks: Path | None, least: int = MIN_MASKS, used: Iterable[Path] = ()
) -> tuple[list[Sample], list[Sample]]:
    """The images with masks, and those without.

    Args:
        images: folder.
        masks: folder; None: no image has a mask.
        least: number of masks.
        used: masks that belong to other images, or to the same ones already.

    Raises:
        UserError: a folder is missing, masks fit no image, or there are too few.
    """
    for folder in (images, masks):
        if folder and not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    if masks is None:
        return [], read_list(images, images, labeled=False)
    if images == masks:
        raise UserError(f"{images}: contains both images and masks; put the masks into a separate folder")
    samples = [s for s in read_list(images, images, labeled=False) if not s.image.is_relative_to(masks)]
    chosen = Masks(masks, used).choose([sample.image.relative_to(images).with_suffix("") for sample in samples])
    pairs = list(zip(samples, chosen, strict=True))
    labeled = [replace(sample, label=mask) for sample, mask in pairs if mask]
    if len(labeled) < least:
        reason = "" if labeled else why_none(images, masks)
        raise UserError(
            f"{masks}: {len(labeled)} masks with images{reason}; you need at least {least}, better some dozens"
        )
    return labeled, [sample for sample, mask in pairs if not mask]


def why_none(images: Path, masks: Path) -> str:
    """Why a folder has no mask file, in brackets."""
    files = walk(masks)
    swapped = "; or are the two folders swapped?" if find_files(images, LABEL_SUFFIXES) else ""
    if not files:
        return " (the folder is empty)"
    return f" (masks are PNG, TIFF or BMP files, but {files[0].name} is not: others lose class indices{swapped})"


def survey(
    labeled: list[Sample], num_classes: int = IGNORE_INDEX, reduce_zero_label: bool = False
) -> tuple[list[tuple[int, ...]], tuple[int, int]]:
    """The values in each mask, sorted, and the usual height and width (medians).

    Args:
        labeled: samples, at least one.
        num_classes, reduce_zero_label: as for `read_label`.

    Raises:
        UserError: a mask can't be used, or no mask contains a class.
    """
    values, sizes = [], []
    for sample in labeled:
        label = read_label(sample.label, num_classes, reduce_zero_label)
        check_sizes(sample, read_image(sample.image).shape[:2], label.shape)
        if turned_alone(sample):
            note("turned images", f"{sample.image}: is turned by its EXIF orientation, but not its mask; do they fit?")
        values.append(tuple(np.unique(label).tolist()))
        sizes.append(label.shape)
    if set(values) == {(IGNORE_INDEX,)}:
        raise UserError(f"{labeled[0].label.parent}: all masks contain only {IGNORE_INDEX}, which means unknown")
    return values, tuple(np.median(sizes, axis=0).astype(int).tolist())


def check_binary(labeled: list[Sample], values: list[tuple[int, ...]]) -> None:
    """Raise UserError if 255 seems to stand for a class, as in masks of black and white; `values` as in `survey`."""
    kinds = dict(zip(reversed(values), (sample.label for sample in reversed(labeled)), strict=True))
    white = kinds.get((0, IGNORE_INDEX))
    if white and set().union(*kinds) == {0, IGNORE_INDEX}:
        raise UserError(
            f"{white}: the masks contain only 0 and {IGNORE_INDEX}, and {IGNORE_INDEX} means unknown; mark the "
            f"objects with 1 in copies of these files, see docs/own-dataset.md"
        )
    if white and (0, 1) in kinds and kinds.keys() <= {(0,), (1,), (0, 1), (0, IGNORE_INDEX)}:
        raise UserError(
            f"{white}: contains only 0 and {IGNORE_INDEX}, but {kinds[0, 1]} 0 and 1; {IGNORE_INDEX} means unknown; "
            "write all masks in the same way"
        )


def divide(labeled: list[Sample], values: list[tuple[int, ...]], share: float) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples, the latter evenly spread over those that training does not need.

    Training needs a sample if no other training sample shows one of its `values`, see `survey`.

    Raises:
        UserError: the share leaves too few.
    """
    if not 0 < share < 1:  # nor NaN
        raise UserError(f"--val {share:g}: must lie between 0 and 1")
    count = max(round(share * len(labeled)), 1)
    if len(labeled) - count < 2:
        raise UserError(
            f"--val {share:g}: leaves {len(labeled) - count} of {len(labeled)} masks for training, which needs two"
        )
    free = list(range(len(labeled)))
    while True:
        chosen = {free[int((i + 0.5) * len(free) / count)] for i in range(count)}
        shown = set().union(*(values[i] for i in range(len(labeled)) if i not in chosen), {IGNORE_INDEX})
        needed = next((i for i in sorted(chosen) if set(values[i]) - shown), None)
        if needed is None or len(free) == count:
            return [s for i, s in enumerate(labeled) if i not in chosen], [labeled[i] for i in sorted(chosen)]
        free.remove(needed)


def joined(before: Lists, found: Lists, val: list[Sample]) -> Lists:
    """The samples of two lists, each image once: those of `before`, then those that are new in `found`.

    A label in `found` replaces an earlier one. Samples whose files are gone are left out; so are validation images and
    all labels, under any names.
    """
    labels = [sample.label for sample in (*before.labeled, *found.labeled, *val)]
    taken = {file_identity(path) for path in (*labels, *(sample.image for sample in val)) if path}
    newest = {file_identity(sample.image): sample for sample in found.labeled}
    lists = Lists([], [])
    for target, samples in (
        (lists.labeled, [newest.get(file_identity(s.image), s) for s in before.labeled] + found.labeled),
        (lists.unlabeled, before.unlabeled + found.unlabeled),  # an image that has a mask now is no longer unlabelled
    ):
        for sample in samples:
            there = all(path.is_file() for path in (sample.image, sample.label) if path)
            if there and (key := file_identity(sample.image)) not in taken:
                taken.add(key)
                target.append(sample)
    return lists
