"""The two data sets of an experiment: training samples by (epoch, position), and evaluation images in order."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.randomness import Purpose, epoch_order, random_stream
from furnace.datasets.reading import Files, read_pair
from furnace.datasets.splits import Sample
from furnace.datasets.transforms import crop_image, crop_label, draw_crop


@dataclass
class TrainBatch:
    """One training batch.

    `images`, `unlabeled_0`, `unlabeled_1`: (B, 3, H, W), uint8 RGB from the loader, normalised floats for the
    network; `labels` (B, H, W) int64 (uint8 from the loader), 255 ignored; `mask` (B, 1, H, W) of 0 and 1,
    the CutMix mask. The last three are None where a method takes labelled images only, the last two without CutMix.
    """

    images: Tensor
    labels: Tensor
    unlabeled_0: Tensor | None = None
    unlabeled_1: Tensor | None = None
    mask: Tensor | None = None

    def map(self, function) -> "TrainBatch":
        """`function` of every tensor that is there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return TrainBatch(**{name: None if value is None else function(value) for name, value in values.items()})

    def split(self, parts: int) -> list["TrainBatch"]:
        """The batch in `parts` of the same size, one after another."""
        size = len(self.images) // parts
        return [self.map(lambda tensor, i=i: tensor[i * size : (i + 1) * size]) for i in range(parts)]

    def pin_memory(self) -> "TrainBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "TrainBatch":
        """A copy on `device`; asynchronous from pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class TrainSet(Dataset):
    """Augmented crops of labelled and unlabelled images, and CutMix masks.

    Args:
        labeled: samples with labels.
        unlabeled: samples whose labels, if any, are not read; None for labelled images only.
        crop: (height, width).
        scales: one is drawn per image.
        fill: RGB of the padding, uint8; that of the mean is 0 after normalisation.
        num_classes: K, to check the labels.
        samples: length of an epoch.
        seed: everything random follows from it.
        masks: draws the CutMix masks; None for one stream of unlabelled images that are not mixed.
        files: reads the images and labels; by default each time from their files.

    `dataset[epoch, position]` is a dict of arrays by the field names of `TrainBatch`; images are (h, w, 3).
    """

    def __init__(
        self,
        labeled: Sequence[Sample],
        unlabeled: Sequence[Sample] | None,
        *,
        crop: tuple[int, int],
        scales: Sequence[float],
        fill: tuple[int, int, int],
        num_classes: int,
        samples: int,
        seed: int,
        masks: BoxMaskGenerator | None,
        files: Files | None = None,
    ):
        self.labeled, self.unlabeled = labeled, unlabeled
        self.crop, self.scales, self.fill = crop, scales, fill
        self.samples, self.seed, self.masks = samples, seed, masks
        self.files = files or Files(num_classes)

    def __len__(self) -> int:
        return self.samples

    def prepare(self) -> None:
        """What is to be done once, before worker processes start, such as filling a cache. Raises UserError."""
        images = [sample.image for sample in [*self.labeled, *(self.unlabeled or ())]]
        self.files.prepare(images, [sample.label for sample in self.labeled])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, position = key
        sample = self.labeled_sample(epoch, position)
        if self.unlabeled is None:
            return sample
        sample["unlabeled_0"] = self.unlabeled_image(epoch, position, 0)
        if self.masks is None:
            return sample
        sample["unlabeled_1"] = self.unlabeled_image(epoch, position, 1)
        sample["mask"] = self.masks(1, self.crop, random_stream(self.seed, epoch, position, Purpose.MASK))[0]
        return sample

    def labeled_sample(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        image, label = self.files.pair(self.sample(epoch, position, Purpose.ORDER_LABELED))
        drawn = self._draw_crop(image, epoch, position, Purpose.CROP_LABELED)
        return {"images": crop_image(image, drawn, self.crop, self.fill), "labels": crop_label(label, drawn, self.crop)}

    def unlabeled_image(self, epoch: int, position: int, number: int) -> np.ndarray:
        """Crop from stream `number`, 0 or 1, of the unlabelled images."""
        image = self.files.image(self.sample(epoch, position, Purpose.ORDER_UNLABELED_0 + number).image)
        drawn = self._draw_crop(image, epoch, position, Purpose.CROP_UNLABELED_0 + number)
        return crop_image(image, drawn, self.crop, self.fill)

    def sample(self, epoch: int, position: int, purpose: int) -> Sample:
        """Which image is at a position of an epoch, in the stream of an ORDER purpose."""
        samples = self.labeled if purpose == Purpose.ORDER_LABELED else self.unlabeled
        return samples[_order(len(samples), self.samples, self.seed, epoch, purpose)[position]]

    def _draw_crop(self, image: np.ndarray, epoch: int, position: int, purpose: int):
        rng = random_stream(self.seed, epoch, position, purpose)
        return draw_crop(image.shape[:2], self.crop, self.scales, rng)


# Two epochs of the three ORDER purposes: workers read ahead across an epoch's end.
@lru_cache(maxsize=6)
def _order(count: int, length: int, seed: int, epoch: int, purpose: int) -> np.ndarray:
    return epoch_order(count, length, random_stream(seed, epoch, 0, purpose))


class EvalSet(Dataset):
    """Images (H, W, 3) uint8 with labels (H, W) uint8, in the order of the list."""

    def __init__(self, samples: Sequence[Sample], num_classes: int):
        self.samples, self.num_classes = samples, num_classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray, np.ndarray]:
        sample = self.samples[index]
        return sample.name, *read_pair(sample, self.num_classes)


def collate(samples: list[dict[str, np.ndarray]]) -> TrainBatch:
    """Stack samples to a `TrainBatch` of uint8; images become (B, 3, H, W) in channels-last memory."""
    arrays = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    images = {name: array.permute(0, 3, 1, 2) for name, array in arrays.items() if name not in ("labels", "mask")}
    return TrainBatch(**(arrays | images))
