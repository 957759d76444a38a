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


def random_stream(seed: int, epoch: int, position: int, purpose: Purpose) -> np.random.Generator:
    """A generator of its own for one purpose at one position of one epoch."""
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
        """The draws of a part of the batch that begins `offset` images further on."""
        return replace(self, first=self.first + offset)

    def stream(self, *purpose: int, index: int = 0) -> np.random.Generator:
        """A generator for one purpose (with numbers that tell it further apart) and image `index` of this part."""
        return np.random.default_rng((self.seed, self.iteration, self.first + index, *purpose))

    def generator(self, device: torch.device, number: int = 0) -> torch.Generator:
        """PyTorch generator `number` on a device, for what a method draws for this part, such as dropout masks."""
        seed = int(self.stream(Purpose.METHOD, number).integers(2**63))
        return torch.Generator(device).manual_seed(seed)


def epoch_order(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """The samples of an epoch: `length` indices below `count`, int64.

    A list shorter than the epoch is repeated whole and the rest drawn without replacement; of a longer one
    `length` are drawn without replacement, anew each epoch, so that every image comes in time.
    """
    whole = np.tile(np.arange(count), length // count)
    rest = rng.permutation(count)[: length % count]
    return rng.permutation(np.concatenate([whole, rest]))
