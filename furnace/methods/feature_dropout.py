"""Channel dropout of an encoder's maps: plain (UniMatch, Yang et al., CVPR 2023), complementary (UniMatch V2, 2024).

Each image has its own random stream, so the factors are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from furnace import datasets

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.datasets.randomness import Draws


def channel_factors(
    networks: Network, batch: TrainBatch, branch: int, share: float, complement: int | None = None
) -> list[Tensor] | None:
    """Factors (B, C, 1, 1) of each map of a branch's encoder for the unlabelled images; None if `share` is 0.

    Args:
        networks, batch, branch: select the encoder and the images.
        share: of the channels that are dropped.
        complement: None for plain dropout, 0 or 1 for the first or second of two views.
    """
    import torch

    if not share:
        return None
    channels = networks.branches[branch - 1].backbone.channels
    images = range(len(batch.unlabeled_0))
    if complement is None:
        rows = [plain(batch.draws, branch, index, channels, share) for index in images]
    else:
        rows = [complementary(batch.draws, branch, index, channels, share)[complement] for index in images]
    like = batch.unlabeled_0
    factors = torch.from_numpy(np.stack(rows)).to(like.dtype)  # before the upload: Apple's GPUs have no float64
    parts = factors[:, :, None, None].split(channels, dim=1)
    # Compiled code is for these strides, and the process that compiles in the background has no others.
    return [datasets.uploaded(part.contiguous(), like.device) for part in parts]


def plain(draws: Draws, branch: int, index: int, channels: Sequence[int], share: float) -> np.ndarray:
    """Factors (sum of channels,) of one image: 0 with probability `share`, else 1 / (1 - share)."""
    kept = stream(draws, branch, index).random(sum(channels)) >= share
    return kept / (1 - share)


def complementary(draws: Draws, branch: int, index: int, channels: Sequence[int], share: float) -> np.ndarray:
    """Factors (2, sum of channels) of one image's two views; 1 for half of the images.

    The first view loses a channel with probability `share`, the second view all others. The factors of the channels
    that a view keeps preserve the mean; for a share of 0.5 they are 2.

    Maps of one width, as from a plain ViT, lose the same channels: they are sums along the same residual stream. In
    each pair of neighbours in the batch, a random draw chooses the image that stays unchanged.
    """
    place = draws.first + index
    untouched = stream(draws, branch, index - place % 2, pair=1).integers(2)
    if place % 2 == untouched:
        return np.ones((2, sum(channels)))
    repeats = len(channels) if len(set(channels)) == 1 else 1
    kept = np.tile(stream(draws, branch, index).random(sum(channels) // repeats) >= share, repeats)
    return np.stack([kept / (1 - share), ~kept / share])


def stream(draws: Draws, branch: int, index: int, pair: int = 0) -> np.random.Generator:
    """The random generator of a branch for one image or one pair of images."""
    return draws.stream(datasets.Purpose.FEATURE_DROPOUT, branch, pair, index=index)
