"""Load all batches of a run and compare them."""

import torch

from furnace.datasets.batch import TrainBatch
from furnace.datasets.loaders import build_train_loader, build_train_set

FIELDS = ("images", "labels", "unlabeled_0", "unlabeled_1", "mask")


def all_batches(C, **loader) -> list[TrainBatch]:
    return list(build_train_loader(C, build_train_set(C), **loader))


def assert_same_batches(batches: list[TrainBatch], others: list[TrainBatch]) -> None:
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
