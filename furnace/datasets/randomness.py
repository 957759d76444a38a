"""Randomness from (seed, epoch, position, purpose): the same for any number of workers, processes or resumptions."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """Purposes of random streams. The numbers are part of every run's result: never reuse or change one."""

    ORDER_LABELED = 0
    ORDER_UNLABELED_0 = 1
    ORDER_UNLABELED_1 = 2
    CROP_LABELED = 3
    CROP_UNLABELED_0 = 4
    CROP_UNLABELED_1 = 5
    MASK = 6
    COLOUR_LABELED = 7
    COLOUR_TEACHER = 8
    COLOUR_STUDENT = 9
    METHOD = 10
    FEATURE_DROPOUT = 11
    BOX = 12
    NETWORK = 13


def random_stream(seed: int, epoch: int, position: int, purpose: Purpose) -> np.random.Generator:
    """A separate generator for one purpose at one position of one epoch."""
    return np.random.default_rng((seed, epoch, position, purpose))


@dataclass(frozen=True)
class Draws:
    """Random numbers of one iteration after loading, independent of how the batch is divided.

    Args:
        seed, iteration: of the run.
        first: index of this part's first image in the whole batch.
    """

    seed: int = 0
    iteration: int = 0
    first: int = 0

    def part(self, offset: int) -> "Draws":
        """The draws of a part of the batch that starts `offset` images later."""
        return replace(self, first=self.first + offset)

    def stream(self, *purpose: int, index: int = 0) -> np.random.Generator:
        """A generator for one purpose (and optional further numbers) and image `index` of this part."""
        return np.random.default_rng((self.seed, self.iteration, self.first + index, *purpose))

    def generator(self, device: torch.device, number: int = 0) -> torch.Generator:
        """PyTorch generator `number` on a device, for the draws of a method in this part, such as dropout masks."""
        seed = int(self.stream(Purpose.METHOD, number).integers(2**63))
        return torch.Generator(device).manual_seed(seed)


def epoch_order(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """The samples of an epoch: `length` indices below `count`, int64.

    A list shorter than the epoch is repeated as a whole, and the rest is drawn without replacement. From a longer list,
    `length` samples are drawn without replacement, again for each epoch, so that every image is used in time.
    """
    whole = np.tile(np.arange(count), length // count)
    rest = rng.permutation(count)[: length % count]
    return rng.permutation(np.concatenate([whole, rest]))
