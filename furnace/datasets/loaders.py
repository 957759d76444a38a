"""Loaders: worker processes that supply a run with batches and an evaluation with images."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from furnace.datasets.cache import Cache
from furnace.datasets.cache_folder import OFF, RAM, locate
from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.dataset import EvalSet, TrainSet, collate
from furnace.datasets.reading import Files, build_reader
from furnace.datasets.splits import read_list
from furnace.datasets.views import VIEWS, WEAK, MirrorScaleCrop, Preparation, View
from furnace.seg_opr.normalize import Normalize
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.sockets import ignore_lost_peers, shorten_sockets
from furnace.utils.stopping import leave_to_parent

KILLED_SECONDS = 5  # longest wait for a killed worker, which may hang if its disk does not answer


class BatchPositions(Sampler):
    """The (epoch, position) pairs of one process's share of every batch, from an iteration to the run's end.

    One pass is the whole run, so that the workers also read ahead across the ends of epochs. Process `rank` of
    `world_size` takes a contiguous share of each batch; together the processes see the batches of a single process.
    """

    def __init__(
        self, batch_size: int, niters_per_epoch: int, nepochs: int, start_iteration: int, rank: int, world_size: int
    ):
        self.niters_per_epoch = niters_per_epoch
        self.iterations = range(start_iteration, nepochs * niters_per_epoch)
        self.batch_size = batch_size
        self.share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in self.iterations:
            epoch, step = divmod(iteration, self.niters_per_epoch)
            yield [(epoch, step * self.batch_size + i) for i in self.share]


def build_view(C: Settings, name: str) -> View:
    """The named view, with the geometry of the settings. Raises UserError if there is no such view."""
    fill = tuple(round(255 * mean) for mean in C.image_mean)  # 0 after normalisation
    geometry = MirrorScaleCrop((C.image_height, C.image_width), C.train_scale_array, fill)
    return VIEWS.find(name)(View([geometry]))


def build_train_set(
    C: Settings,
    unlabeled: bool = True,
    view: str = WEAK,
    unlabeled_view: str = WEAK,
    valid: bool = False,
    second_stream: bool = True,
) -> TrainSet:
    """The training set of the settings, with the images of both lists.

    Args:
        C: checked settings.
        unlabeled: read the unlabelled images, too.
        view, unlabeled_view: names of the method's views of labelled and unlabelled images.
        valid: also return the maps of valid pixels of the unlabelled images.
        second_stream: for CutMix; without it, the method mixes images itself or not at all.

    Raises:
        UserError: a list or folder is missing or empty.
    """
    labeled = read_list(C.train_source, C.dataset_path, C.train_folder)
    found = read_list(C.unsup_source, C.dataset_path, C.train_folder, labeled=False) if unlabeled else None
    return TrainSet(
        labeled,
        found,
        view=build_view(C, view),
        unlabeled_view=build_view(C, unlabeled_view),
        crop=(C.image_height, C.image_width),
        samples=C.niters_per_epoch * C.batch_size,
        seed=C.seed,
        masks=build_mask_generator(C) if C.cutmix and second_stream else None,
        files=build_files(C),
        skip_unreadable=C.on_bad_image == "skip",
        valid=valid,
    )


def build_preparation(
    C: Settings, labeled: str, teacher: str, students: Sequence[str], device: torch.device, layout: torch.memory_format
) -> Preparation:
    """The preparation of loaded batches for the networks, with a method's views by name. Raises UserError."""
    views = [build_view(C, name) for name in students]
    if any(view.geometric != build_view(C, teacher).geometric for view in views):
        raise UserError(f"views {teacher} and {', '.join(students)}: teacher and students must see the same crop")
    normalize = Normalize(C.image_mean, C.image_std).to(device)
    return Preparation(build_view(C, labeled), build_view(C, teacher), views, normalize, device, layout)


def build_files(C: Settings) -> Files:
    """The reader of images and labels, with the cache if `C.cache` is set. Raises UserError."""
    if C.cache == OFF:
        return build_reader(C)
    return build_cache(C, locate(C.cache))


def build_cache(C: Settings, folder: Path) -> Cache:
    """A cache in `folder` for the images and labels of the settings."""
    return Cache(C.num_classes, folder, C.cache != RAM, C.reduce_zero_label)


def build_mask_generator(C: Settings) -> BoxMaskGenerator:
    """The generator of CutMix masks of the settings."""
    return BoxMaskGenerator(
        prop_range=tuple(C.cutmix_mask_prop_range),
        n_boxes=C.cutmix_boxmask_n_boxes,
        random_aspect_ratio=not C.cutmix_boxmask_fixed_aspect_ratio,
        prop_by_area=not C.cutmix_boxmask_by_size,
        within_bounds=not C.cutmix_boxmask_outside_bounds,
        invert=not C.cutmix_boxmask_no_invert,
    )


def build_train_loader(
    C: Settings, dataset: TrainSet, start_iteration: int = 0, rank: int = 0, world_size: int = 1, pin: bool = False
) -> DataLoader:
    """Loader of this process's share of the batches from `start_iteration` to the run's end; fills the cache first."""
    dataset.prepare()
    workers = worker_count(C.num_workers, world_size)
    dataset.watch(workers)
    positions = BatchPositions(C.batch_size, C.niters_per_epoch, C.nepochs, start_iteration, rank, world_size)
    return DataLoader(dataset, batch_sampler=positions, collate_fn=collate, **worker_settings(workers, pin))


def build_eval_loader(C: Settings, samples: list, world_size: int = 1) -> DataLoader:
    """Loader of single images, (name, image, label), decoded ahead by the workers."""
    workers = worker_count(C.num_workers, world_size)
    return DataLoader(EvalSet(samples, build_reader(C)), batch_size=None, **worker_settings(workers))


def worker_count(num_workers: int, world_size: int = 1) -> int:
    """Workers for each of `world_size` processes: at most one per core, because more would compete for the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_workers, max(1, cores // world_size))


def worker_settings(num_workers: int, pin: bool = False) -> dict:
    """Arguments of DataLoader for our workers, which have one thread and load four batches ahead."""
    settings = {"num_workers": num_workers, "pin_memory": pin}
    if num_workers:
        shorten_sockets()
        settings |= {"worker_init_fn": start_worker, "prefetch_factor": 4}
    return settings


def start_worker(_: int) -> None:
    # Leave the process group, which Ctrl-C, timeout and torchrun signal: training needs workers for its last batch.
    os.setpgid(0, 0)
    leave_to_parent()
    ignore_lost_peers()
    # Many workers share the cores; threads of OpenCV would compete with them.
    cv2.setNumThreads(0)


@contextmanager
def no_workers_left() -> Iterator[None]:
    """Kill the workers started within the block at its end: Python would wait forever for one that hangs."""
    before = set(active_children())
    try:
        yield
    finally:
        workers = set(active_children()) - before
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(KILLED_SECONDS)
