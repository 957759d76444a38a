"""Check an experiment's data, weights and resources; the results are findings with advice."""

import numpy as np
import torch

from furnace.checks.findings import Finding, Level
from furnace.checks.resources import WEIGHTS, check_cache, check_time, check_weights
from furnace.datasets.catalog import build_classes
from furnace.datasets.inspection import (
    DECODES,
    EMPTY,
    SIZES,
    VALUES,
    Inspection,
    Listing,
    among,
    duplicates,
    inspect_all,
    missing_files,
    open_listing,
    padding_note,
    repeated,
    shared_images,
)
from furnace.datasets.protocols import FEW_LABELS, recognize
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import list_hash
from furnace.methods.method import METHODS
from furnace.utils.settings import Settings
from furnace.utils.wording import counted, few

HASH_SHOWN = 12
LABELED, UNLABELED, EVALUATION = "labelled", "unlabelled", "evaluation"
# Advice for the faults of images and labels, by check.
ADVICE = {
    DECODES: "copy these files again",
    SIZES: "use the labels that belong to these images",
    VALUES: "",
    EMPTY: "all of their pixels are ignored; training learns nothing from them",
}


class Checkup:
    """The checks of an experiment; their results are added to `findings` in order.

    Args:
        C: the experiment's settings.
        device: device for training.
        limit: number of images to decode per list; None for all.
        start: report on the snapshot that training continues; empty if it starts with the weights of the settings.
    """

    def __init__(self, C: Settings, device: torch.device, limit: int | None, start: str = ""):
        self.C, self.device, self.limit, self.start = C, device, limit, start
        self.findings: list[Finding] = []
        self.listings: dict[str, Listing] = {}
        self.inspections: dict[str, list[Inspection]] = {}

    def run(self) -> list[Finding]:
        """Run all checks."""
        self.check_lists()
        self.check_overlaps()
        self.check_files()
        self.check_contents()
        self.check_classes()
        self.check_duplicates()
        self.findings.append(Finding(Level.OK, WEIGHTS, self.start) if self.start else check_weights(self.C))
        self.check_cache()
        if not any(listing.faults for listing in self.listings.values()):
            self.findings += check_time(self.C, self.device)
        return self.findings

    def check_lists(self) -> None:
        """Check that each list can be read; report its length, protocol and hash."""
        C = self.C
        sources = {LABELED: (C.train_source, C.train_folder)}
        if METHODS.find(C.method).unlabeled:
            sources[UNLABELED] = (C.unsup_source, C.train_folder)
        sources[EVALUATION] = (C.eval_source, C.eval_folder)
        for title, (source, folder) in sources.items():
            listing = open_listing(title, source, C.dataset_path, folder, labeled=title != UNLABELED)
            self.listings[title] = listing
            self._check_list(listing)

    def _check_list(self, listing: Listing) -> None:
        check, images = f"{listing.title} list", len(listing.samples)
        for fault in listing.faults[:1]:
            others = f" (and {len(listing.faults) - 1} more lines)" if len(listing.faults) > 1 else ""
            self._add(Level.PROBLEM, check, f"{fault}{others}")
        if listing.lines:
            protocol = recognize(listing.source) or "no published protocol"
            sha256 = list_hash(listing.source)[:HASH_SHOWN]
            text = f"{counted(len(listing.lines), 'image')}; {protocol}; sha256 {sha256}..."
            self._add(Level.OK, check, text)
            if again := repeated(listing.samples):
                text = f"{len(again)} repeated lines: {few(sample.name for sample in again)}"
                self._add(Level.PROBLEM, check, text, "remove them")
        elif images:
            self._add(Level.OK, check, f"{images} images in the folder {listing.source}")

    def check_overlaps(self) -> None:
        """Check that no image is in two lists, and that no mask is among the unlabelled images."""
        listings = list(self.listings.values())
        unlabeled = self.listings.get(UNLABELED)
        masks = [sample.label for one in listings if one is not unlabeled for sample in one.samples]
        if unlabeled and (found := among(unlabeled.samples, masks)):
            text = f"{counted(len(found), 'image')} are masks of other lists, such as {found[0].image}"
            self._add(Level.PROBLEM, "unlabelled list", text, "name a folder or a list of images alone")
        for index, other in enumerate(listings):
            for one in listings[:index]:
                shared = shared_images(one, other)
                if shared is not None:
                    self._judge_shared(one, other, shared)

    def _judge_shared(self, one: Listing, other: Listing, shared: list[str]) -> None:
        check = f"{one.title} / {other.title}"
        if not shared:
            self._add(Level.OK, check, "no image in both")
            return
        text = f"{counted(len(shared), 'image')} in both: {few(shared)}"
        known = [recognize(listing.source) or "" for listing in (one, other) if listing.lines]
        excused = len(shared) == 1 and len(known) == 2 and all(name.startswith(FEW_LABELS) for name in known)
        if other.title == EVALUATION:
            advice = f"remove them from the {one.title} list; otherwise the scores are too high"
            self._add(Level.PROBLEM, check, text, advice)
        elif len(shared) == len(one.samples) < len(other.samples):
            self._add(Level.NOTE, check, text, "all labelled images, as in the published full supervision")
        elif excused:
            self._add(Level.NOTE, check, text, "a known fault of the published few-label lists; its effect is small")
        else:
            self._add(Level.PROBLEM, check, text, "remove them from one of the lists")

    def check_files(self) -> None:
        """Check that every image and label of the lists exists, and that images are not much smaller than the crop."""
        for title, listing in self.listings.items():
            missing = missing_files(listing.samples, listing.labeled)
            if missing:
                text = f"{counted(len(missing), 'file')} missing: {few(missing)}"
                self._add(Level.PROBLEM, f"{title} files", text, "see DATA/README.md, or correct the list")
            elif listing.samples:
                what = "images and labels" if listing.labeled else "images"
                self._add(Level.OK, f"{title} files", f"all {what} exist")
        C = self.C
        if text := padding_note(self.listings[LABELED].samples, (C.image_height, C.image_width), C.train_scale_array):
            self._add(Level.NOTE, "crop", text)

    def check_contents(self) -> None:
        """Check that images and labels can be decoded and have the same size, and that labels have valid values."""
        for title, listing in self.listings.items():
            found = self.inspections[title] = inspect_all(listing, build_reader(self.C), self.limit)
            for check, advice in ADVICE.items():
                faults = [inspection.faults[check] for inspection in found if check in inspection.faults]
                if faults:
                    level = Level.NOTE if check == EMPTY else Level.PROBLEM
                    self._add(level, f"{title} {check}", f"{len(faults)} of {len(found)}: {few(faults)}", advice)
            if turned := [inspection.sample.image for inspection in found if inspection.turned]:
                text = f"{counted(len(turned), 'image')} turned by EXIF orientation, but not the labels: {few(turned)}"
                self._add(Level.NOTE, f"{title} orientation", text, "check that the labels fit the upright images")
            if found and not any(inspection.faults for inspection in found):
                read = "all" if len(found) == len(listing.samples) else f"{len(found)} of {len(listing.samples)}"
                fine = "can be decoded; sizes and values of labels are correct" if listing.labeled else "can be decoded"
                self._add(Level.OK, f"{title} contents", f"{read} {fine}")

    def check_classes(self) -> None:
        """Check that every class occurs in each list that was read completely."""
        C = self.C
        names = build_classes(C).names
        for title, counts in self.class_counts().items():
            absent = [name for name, count in zip(names, counts[: C.num_classes], strict=True) if not count]
            if absent and len(self.inspections[title]) == len(self.listings[title].samples):
                text = f"no label shows {', '.join(absent)}"
                level, advice = Level.NOTE, "choose other images to train or evaluate this class"
                if title == LABELED and not C.allow_absent_classes:
                    level, advice = Level.PROBLEM, "correct the labels, or set C.allow_absent_classes = True"
                self._add(level, f"{title} classes", text, advice)

    def class_counts(self) -> dict[str, np.ndarray]:
        """Number of pixels per label value, (256,) int64, in the labels that were read, by title of the list."""
        counts = {
            title: [inspection.counts for inspection in found if inspection.counts is not None]
            for title, found in self.inspections.items()
        }
        return {title: np.sum(values, axis=0) for title, values in counts.items() if values}

    def check_duplicates(self) -> None:
        """Check that no image has a copy under another name."""
        groups = duplicates(list(self.listings.values()))
        leaks = [group for group in groups if EVALUATION in dict(group) and len(dict(group)) > 1]
        others = [group for group in groups if group not in leaks]
        for level, found, where in ((Level.PROBLEM, leaks, " in training and evaluation"), (Level.NOTE, others, "")):
            if found:
                names = [" = ".join(str(path) for _, path in group) for group in found]
                text = f"{counted(len(found), 'image')} with copies{where}: {few(names)}"
                self._add(level, "duplicate images", text, "remove the copies from the lists")
        if not groups and any(listing.samples for listing in self.listings.values()):
            self._add(Level.OK, "duplicate images", "none")

    def check_cache(self) -> None:
        """Check that there is space for the decoded training images."""
        labeled = self.listings[LABELED].samples
        unlabeled = self.listings[UNLABELED].samples if UNLABELED in self.listings else []
        if labeled or unlabeled:
            images = [sample.image for sample in [*labeled, *unlabeled]]
            self.findings.append(check_cache(self.C, images, [sample.label for sample in labeled]))

    def _add(self, level: Level, check: str, text: str, advice: str = "") -> None:
        self.findings.append(Finding(level, check, text, advice))
