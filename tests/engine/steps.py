"""Learners and batches for tests of single steps."""

import time

import torch

from furnace.datasets.batch import TrainBatch
from furnace.engine.background_compilation import BackgroundCompilation
from furnace.engine.learner import Learner, build_learner
from furnace.engine.numerics import memory_format
from furnace.methods.build import build_network
from furnace.utils.settings import Settings

COMPILED_SECONDS = 400  # for two networks on a busy machine


def seeded_learner(C: Settings, device: torch.device, **options) -> Learner:
    """A learner with the given settings and the same weights at every call; by default float32 and not compiled."""
    torch.manual_seed(0)
    network = build_network(C).to(device, memory_format=memory_format(device))
    return build_learner(C, network, **({"amp": "off", "compiled": False} | options))


def random_batch(C: Settings, device: torch.device) -> TrainBatch:
    """A batch of normal noise, the same at every call."""
    rng = torch.Generator().manual_seed(1)
    shape = C.batch_size, 3, C.image_height, C.image_width
    images = [torch.randn(shape, generator=rng) for _ in range(3)]
    labels = torch.randint(0, C.num_classes, (shape[0], *shape[2:]), generator=rng)
    mask = torch.randint(0, 2, (shape[0], 1, *shape[2:]), generator=rng)
    return TrainBatch(images[0], labels, images[1], images[2], mask).to(device)


def follow_to_the_end(compilation: BackgroundCompilation) -> None:
    """Wait until the learner uses compiled code."""
    end = time.monotonic() + COMPILED_SECONDS
    while not compilation.learner.compiled:
        assert time.monotonic() < end
        time.sleep(0.1)
        compilation.follow()
