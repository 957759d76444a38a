"""The two data sets of an experiment: training samples by (epoch, position), and evaluation images in order."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from furnace.datasets.batch import TrainBatch
from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.randomness import Purpose, epoch_order, random_stream
from furnace.datasets.reading import Files, check_sizes, read_label
from furnace.datasets.splits import Sample
from furnace.datasets.views import Pixels, View
from furnace.utils.errors import UserError

MAX_REPLACED = 100  # unreadable images in a row; then the disk is the cause, not an image
IDLE = -1
IMAGES = ("images", "unlabeled_0", "unlabeled_1")
Read = TypeVar("Read")


class TrainSet(Dataset):
    """Augmented crops of labelled and unlabelled images, and CutMix masks.

    Args:
        labeled: samples with labels.
        unlabeled: samples whose labels, if any, are not read; None for labelled images only.
        view: geometric transforms of the labelled images.
        unlabeled_view: those of the unlabelled images; by default the same.
        crop: (height, width) of the views' output.
        samples: length of an epoch.
        seed: determines everything random.
        masks: draws the CutMix masks; None for one stream of unlabelled images without mixing.
        files: reads the images and labels.
        skip_unreadable: replace an image that can't be read by the next one in the epoch's order.
        valid: also return the maps of valid pixels of the unlabelled images.

    `dataset[epoch, position]` is a dict of arrays by the field names of `TrainBatch`; images are (h, w, 3). If
    images were replaced, it also has `skipped`.
    """

    def __init__(
        self,
        labeled: Sequence[Sample],
        unlabeled: Sequence[Sample] | None,
        *,
        view: View,
        unlabeled_view: View | None = None,
        crop: tuple[int, int],
        samples: int,
        seed: int,
        masks: BoxMaskGenerator | None,
        files: Files,
        skip_unreadable: bool = False,
        valid: bool = False,
    ):
        self.labeled, self.unlabeled = labeled, unlabeled
        self.view, self.unlabeled_view, self.crop, self.valid = view, unlabeled_view or view, crop, valid
        self.samples, self.seed, self.masks = samples, seed, masks
        self.files, self.skip_unreadable = files, skip_unreadable
        self.skipped: list[str] = []  # of the sample that is being made
        self.reading: Tensor | None = None

    def __len__(self) -> int:
        return self.samples

    def prepare(self) -> None:
        """Prepare the files once, before worker processes start; this fills the cache. Raises UserError."""
        images = [sample.image for sample in [*self.labeled, *(self.unlabeled or ())]]
        self.files.prepare(images, [sample.label for sample in self.labeled], self.skip_unreadable)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, position = key
        self.skipped = []
        arrays = self._arrays(epoch, position)
        return arrays | {"skipped": self.skipped} if self.skipped else arrays

    def _arrays(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        sample = self.labeled_sample(epoch, position)
        if self.unlabeled is None:
            return sample
        sample |= self.unlabeled_sample(epoch, position, 0)
        if self.masks is None:
            return sample
        sample |= self.unlabeled_sample(epoch, position, 1)
        sample["mask"] = self.masks(1, self.crop, random_stream(self.seed, epoch, position, Purpose.MASK))[0]
        return sample

    def labeled_sample(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        image, label = self._read(self.files.pair, epoch, position, Purpose.ORDER_LABELED)
        rng = random_stream(self.seed, epoch, position, Purpose.CROP_LABELED)
        pixels = self.view.crop(Pixels(image, label), rng)
        return {"images": pixels.image, "labels": pixels.label}

    def unlabeled_sample(self, epoch: int, position: int, number: int) -> dict[str, np.ndarray]:
        """Crop, and its valid pixels if `valid` is set, from stream `number` (0 or 1) of the unlabelled images."""
        purpose = Purpose.ORDER_UNLABELED_0 + number
        image = self._read(lambda sample: self.files.image(sample.image), epoch, position, purpose)
        valid = np.ones(image.shape[:2], np.uint8) if self.valid else None
        pixels = self._crop_unlabeled(Pixels(image, valid=valid), epoch, position, number)
        found = {f"unlabeled_{number}": pixels.image}
        return found if pixels.valid is None else found | {f"valid_{number}": pixels.valid[None]}

    def withheld_label(self, epoch: int, position: int, number: int) -> np.ndarray:
        """Crop (h, w) uint8 of the label for `unlabeled_sample`. It must not be used for training.

        Raises:
            UserError: it can't be read, or does not fit its image.
        """
        sample = self.sample(epoch, position, Purpose.ORDER_UNLABELED_0 + number)
        label = read_label(sample.label, self.files.num_classes, self.files.reduce_zero_label)  # not through the cache
        check_sizes(sample, self.files.image(sample.image).shape[:2], label.shape)
        return self._crop_unlabeled(Pixels(label=label), epoch, position, number).label

    def _crop_unlabeled(self, pixels: Pixels, epoch: int, position: int, number: int) -> Pixels:
        rng = random_stream(self.seed, epoch, position, Purpose.CROP_UNLABELED_0 + number)
        return self.unlabeled_view.crop(pixels, rng)

    def sample(self, epoch: int, position: int, purpose: int) -> Sample:
        """The sample at a position of an epoch, in the stream of an ORDER purpose."""
        samples = self.labeled if purpose == Purpose.ORDER_LABELED else self.unlabeled
        return samples[_order(len(samples), self.samples, self.seed, epoch, purpose)[position]]

    def watch(self, num_workers: int) -> None:
        """Let each worker process note in shared memory what it reads, because a killed one can't report it."""
        self.reading = torch.full((num_workers, 3), IDLE).share_memory_()

    def being_read(self) -> list[Path]:
        """The images that worker processes have begun to read and not finished."""
        noted = [] if self.reading is None else self.reading.tolist()
        return [self.sample(*key).image for key in noted if IDLE not in key]

    def _read(self, read: Callable[[Sample], Read], epoch: int, position: int, purpose: int) -> Read:
        """Call `read` for the image at a position of an epoch, or for the one that replaces it."""
        for offset in range(MAX_REPLACED if self.skip_unreadable else 1):
            key = epoch, (position + offset) % self.samples, purpose
            self._note(key)
            try:
                return read(self.sample(*key))
            except UserError as error:
                if not self.skip_unreadable:
                    raise
                self.skipped.append(str(error))
            finally:
                self._note((IDLE, IDLE, IDLE))
        raise UserError(f"{MAX_REPLACED} images in a row can't be read, the last: {self.skipped[-1]}")

    def _note(self, key: tuple[int, int, int]) -> None:
        worker = get_worker_info()
        if worker is not None and self.reading is not None:
            self.reading[worker.id] = torch.tensor(key)


# Two epochs of the three ORDER purposes: workers read ahead across an epoch's end.
@lru_cache(maxsize=6)
def _order(count: int, length: int, seed: int, epoch: int, purpose: int) -> np.ndarray:
    return epoch_order(count, length, random_stream(seed, epoch, 0, purpose))


class EvalSet(Dataset):
    """Images (H, W, 3) uint8 with labels (H, W) uint8, in the order of the list."""

    def __init__(self, samples: Sequence[Sample], files: Files):
        self.samples, self.files = samples, files

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray, np.ndarray]:
        sample = self.samples[index]
        return sample.name, *self.files.pair(sample)


def collate(samples: list[dict[str, np.ndarray]]) -> TrainBatch:
    """Stack samples into a `TrainBatch` of uint8; images become (B, 3, H, W) in channels-last memory."""
    skipped = [reason for sample in samples for reason in sample.pop("skipped", ())]
    arrays = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    images = {name: arrays[name].permute(0, 3, 1, 2) for name in IMAGES if name in arrays}
    return TrainBatch(**(arrays | images), skipped=skipped)
