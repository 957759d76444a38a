"""Teachers and students on a batch's unlabelled images, with CutMix and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from furnace import seg_opr

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.seg_opr.pseudo_label import Predictions


def student_images(batch: TrainBatch, number: int = 0) -> Tensor:
    """Student view `number` of the unlabelled images (B, 3, H, W), mixed if the batch has a CutMix mask."""
    if batch.mask is None:
        return batch.students_0[number]
    return seg_opr.cutmix(batch.students_0[number], batch.students_1[number], batch.mask)


def teacher_predictions(networks: Network, batch: TrainBatch, branch: int) -> Predictions:
    """Predictions of one branch for the mixed unlabelled images: its logits of each, mixed as the images will be.

    Two passes, not one of twice the size: in training mode BatchNorm sees each batch on its own.
    """
    import torch

    with torch.no_grad():
        logits_u0 = networks.logits(batch.unlabeled_0, branch)
        if batch.mask is None:
            return seg_opr.predict_upsampled(logits_u0, batch.unlabeled_0.shape[-2:])
        logits_u1 = networks.logits(batch.unlabeled_1, branch)
        return seg_opr.predict_mixed(logits_u0, logits_u1, batch.mask)


def teach_and_study(networks: Network, batch: TrainBatch, branch: int) -> tuple[Predictions, Callable[[], Tensor]]:
    """Predictions of a branch as a teacher, and a call that gives its logits (B, K, h, w) as a student.

    The call makes the student's pass when its loss is due. If teacher and student see the same images, one pass serves
    both.
    """
    if batch.mask is None and batch.students_0[0] is batch.unlabeled_0:
        logits = networks.logits(batch.unlabeled_0, branch)
        return seg_opr.predict_upsampled(logits, batch.unlabeled_0.shape[-2:]), lambda: logits
    predictions = teacher_predictions(networks, batch, branch)
    return predictions, lambda: networks.logits(student_images(batch), branch)
