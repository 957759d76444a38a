"""Checks of a run's batch, lists and labels before its first iteration."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from furnace.datasets.catalog import CATALOG, build_classes
from furnace.datasets.dataset import TrainSet
from furnace.datasets.inspection import absent_classes, among, file_identity, missing_files, padding_note
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import read_list
from furnace.engine.distributed import from_first, gather_objects, whole_batch, world_size
from furnace.engine.identity import learned_lists
from furnace.methods.method import METHODS
from furnace.utils.errors import UserError
from furnace.utils.settings import EVALUATION, PLACES, Settings
from furnace.utils.wording import counted, few

# Paths and resources; lists are compared by their content, and weights come from the first process.
OF_MACHINE = PLACES | EVALUATION | {
    "dataset_path", "train_source", "unsup_source", "pretrained_model", "warm_start", "cache", "num_workers",
}  # fmt: skip


def check_classes(C: Settings, dataset: TrainSet) -> list[str]:
    """A note if a class of the catalog is in no training label, as is possible in small partitions.

    Raises:
        UserError: a class of the user's own data set is in no label, unless `C.allow_absent_classes`; or a label can't
            be used.
    """
    if C.allow_absent_classes or not (
        absent := absent_classes(dataset.labeled, build_reader(C), C.on_bad_image == "skip")
    ):
        return []
    names, known = build_classes(C).names, CATALOG.get(C.dataset_name)
    text = f"{C.train_source}: no label shows {few(names[number] for number in absent)}"
    if known and names == known.names:
        return [text]
    raise UserError(f"{text}; correct the labels or C.num_classes, or set C.allow_absent_classes = True")


def check_files(C: Settings, dataset: TrainSet) -> list[str]:
    """Notes on images that are much smaller than the crop, in both training lists, or in training and evaluation.

    Raises:
        UserError: masks are among the unlabelled images, as in a folder with images and masks; or a file is missing,
            unless `C.on_bad_image` is "skip".
    """
    labeled, unlabeled = dataset.labeled, dataset.unlabeled or []
    try:
        evaluated = read_list(C.eval_source, C.dataset_path, C.eval_folder)
    except UserError:  # training needs no evaluation images
        evaluated = []
    identity = cache(file_identity)  # network disks answer slowly
    if found := among(unlabeled, (sample.label for sample in (*labeled, *evaluated)), identity):
        raise UserError(
            f"C.unsup_source = {C.unsup_source}: has {counted(len(found), 'mask')} of other lists, such as "
            f"{found[0].image}; name a folder or a list of images alone"
        )
    if C.on_bad_image != "skip":
        refuse_missing(C.train_source, missing_files(labeled, labeled=True))
        refuse_missing(C.unsup_source, missing_files(unlabeled, labeled=False))
    padding = padding_note(labeled, (C.image_height, C.image_width), C.train_scale_array)
    notes = [padding] if padding else []
    both = among(unlabeled, (sample.image for sample in labeled), identity)
    if 0 < len(both) < len(labeled):  # all: full supervision, as published
        count = counted(len(both), "image")
        notes.append(f"{count} in both C.train_source and C.unsup_source, such as {both[0].image}")
    if leaked := among((*labeled, *unlabeled), (sample.image for sample in evaluated), identity):
        count = "1 image of C.eval_source is" if len(leaked) == 1 else f"{len(leaked)} images of C.eval_source are"
        notes.append(f"{count} among the training images, such as {leaked[0].image}: scores will be too high")
    return notes


def refuse_missing(source: str, missing: Sequence[Path]) -> None:
    """Raise UserError about files that a list names, if they are missing."""
    if missing:
        count = counted(len(missing), "missing file")
        raise UserError(f"{missing[0]}: no such file; restore it, or correct {source}, which names {count}")


def check_shares(C: Settings, processes: int | None = None, device: torch.device | None = None) -> None:
    """Raise UserError unless the batch can be split into equal shares of enough images for BatchNorm and CutMix.

    Args:
        C: settings of the batch, its parts, and the synchronisation of BatchNorm over processes.
        processes: number of processes of the run; by default the current number.
        device: of each process; by default a GPU. BatchNorm can't be synchronised on CPUs.
    """
    processes = processes or world_size()
    together = C.sync_bn and (device is None or device.type == "cuda")
    mixes = METHODS[C.method].mixes_itself
    shares, least = processes * C.accumulate, 1 if together and processes > 1 and not mixes else 2
    if C.batch_size % shares or C.batch_size // shares < least:
        raise UserError(
            f"C.batch_size = {C.batch_size} must give {processes} process(es) x C.accumulate = {C.accumulate} equal "
            f"shares of at least {least} image(s) for BatchNorm{' and CutMix' * mixes}, for example {least * shares}"
        )


def check_alike(values: Mapping[str, Any]) -> None:
    """Raise UserError, in all processes, unless they have the same values by name."""

    def judge() -> None:
        for number, share in enumerate(shares):
            for name in {**shares[0], **share}:
                own, first = share.get(name, "unknown"), shares[0].get(name, "unknown")
                if own != first:
                    raise UserError(
                        f"{name} is {own} in process {number}, but {first} in the first; give all processes the same "
                        "settings and code"
                    )

    shares = gather_objects(dict(values))
    from_first(judge)


def check_settings(C: Settings) -> None:
    """Raise UserError unless the settings of all processes agree, but for those that a machine may have of its own."""
    values = C.model_dump(mode="json")
    check_alike({f"C.{name}": value for name, value in values.items() if name not in OF_MACHINE})


def check_lists(C: Settings, dataset: TrainSet, device: torch.device) -> None:
    """Raise UserError unless all processes have the same training lists: each machine reads its own files."""
    names = [[sample.name for sample in samples] for _, samples in learned_lists(C, dataset).values()]
    own = int.from_bytes(hashlib.blake2b(repr(names).encode(), digest_size=7).digest(), "big")
    digests = whole_batch().gather(torch.tensor([own], device=device)).tolist()
    others = [str(number) for number, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise UserError(
            f"C.train_source and C.unsup_source: process {', '.join(others)} has other images, or another order, than "
            "the first; give all machines the same lists"
        )
