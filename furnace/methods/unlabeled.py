"""What students and teachers see of a batch's unlabelled images, with CutMix and without."""

import torch
from torch import Tensor

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.seg_opr.pseudo_label import Votes, cutmix, vote_mixed, vote_upsampled


def student_images(batch: TrainBatch) -> Tensor:
    """The unlabelled images (B, 3, H, W), mixed where the batch has a CutMix mask."""
    if batch.mask is None:
        return batch.unlabeled_0
    return cutmix(batch.unlabeled_0, batch.unlabeled_1, batch.mask)


@torch.no_grad()
def teacher_votes(network: Network, batch: TrainBatch, branch: int) -> Votes:
    """One branch's labels of the mixed unlabelled images, from its logits of each, mixed as the images will be.

    Two passes, not one of twice the size: in training mode BatchNorm sees each batch on its own.
    """
    logits_u0 = network.quarter_logits(batch.unlabeled_0, branch)
    if batch.mask is None:
        return vote_upsampled(logits_u0, batch.unlabeled_0.shape[-2:])
    logits_u1 = network.quarter_logits(batch.unlabeled_1, branch)
    return vote_mixed(logits_u0, logits_u1, batch.mask)


def votes_and_logits(network: Network, batch: TrainBatch, branch: int) -> tuple[Votes, Tensor]:
    """What a branch that is trained says as a teacher, and its logits (B, K, H/4, W/4) as a student.

    Without CutMix both see the same images, and one pass serves both.
    """
    if batch.mask is None:
        logits = network.quarter_logits(batch.unlabeled_0, branch)
        return vote_upsampled(logits, batch.unlabeled_0.shape[-2:]), logits
    votes = teacher_votes(network, batch, branch)
    return votes, network.quarter_logits(student_images(batch), branch)
