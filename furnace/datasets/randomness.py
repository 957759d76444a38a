"""Randomness from (seed, epoch, position, purpose): the same for any number of workers, processes or resumptions."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a random stream is for. The numbers are part of every run's result: never reuse or change one."""

    ORDER_LABELED = 0
    ORDER_UNLABELED_0 = 1
    ORDER_UNLABELED_1 = 2
    CROP_LABELED = 3
    CROP_UNLABELED_0 = 4
    CROP_UNLABELED_1 = 5
    MASK = 6


def random_stream(seed: int, epoch: int, position: int, purpose: Purpose) -> np.random.Generator:
    """A generator of its own for one purpose at one position of one epoch."""
    return np.random.default_rng((seed, epoch, position, purpose))


def epoch_order(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """The samples of an epoch: `length` indices below `count`, int64.

    A list shorter than the epoch is repeated whole and the rest drawn without replacement; of a longer one
    `length` are drawn without replacement, anew each epoch, so that every image comes in time.
    """
    whole = np.tile(np.arange(count), length // count)
    rest = rng.permutation(count)[: length % count]
    return rng.permutation(np.concatenate([whole, rest]))
