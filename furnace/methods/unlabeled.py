"""Teachers and students on a batch's unlabelled images, with or without CutMix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from furnace import datasets, seg_opr
from furnace.methods.feature_dropout import channel_factors

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.seg_opr.pseudo_label import Predictions

Students = Sequence[Callable[[], "Tensor"]]  # per view a function that returns a student's logits (B, K, h, w)


class Target(NamedTuple):
    """Pseudo labels, confidence, and `counted`, False for padding (None: all pixels count); each (B, H, W)."""

    labels: Tensor
    confidence: Tensor
    counted: Tensor | None = None

    def mixed(self, inside: Target, mask: Tensor) -> Target:
        """The target of mixed images: `inside` where the mask (B, 1, H, W) is 1, else this one."""
        pairs = zip(self, inside, strict=True)
        return Target(*(None if own is None else seg_opr.cutmix(own, other, mask[:, 0]) for own, other in pairs))

    def reversed(self) -> Target:
        """The target with the images in reversed order."""
        return Target(*(None if values is None else values.flip(0) for values in self))


def student_images(batch: TrainBatch, number: int = 0) -> Tensor:
    """Student view `number` of the unlabelled images (B, 3, H, W), mixed if the batch has a CutMix mask."""
    if batch.mask is None:
        return batch.students_0[number]
    return seg_opr.cutmix(batch.students_0[number], batch.students_1[number], batch.mask)


def student_passes(networks: Network, batch: TrainBatch, branch: int, dropout: float = 0) -> Students:
    """One function per view of the mixed unlabelled images that returns a branch's logits (B, K, h, w).

    `dropout` is the share of the encoder's channels that are dropped; two views drop complementary channels.
    """
    views = len(batch.students_0)

    def logits(view: int) -> Tensor:
        factors = channel_factors(networks, batch, branch, dropout, complement=view if views > 1 else None)
        return networks.logits(student_images(batch, view), branch, factors)

    return [lambda view=view: logits(view) for view in range(views)]


def teacher_predictions(networks: Network, batch: TrainBatch, branch: int, average: bool = False) -> Predictions:
    """Predictions of one branch for the mixed unlabelled images: CutMix of its logits for the unmixed images.

    This takes two passes, because in training mode BatchNorm must see each batch separately. A moving average labels
    in eval mode, as in evaluation.
    """
    import torch

    if average:
        networks.branches[branch - 1].eval()
    with torch.no_grad():
        logits_u0 = networks.logits(batch.unlabeled_0, branch)
        if batch.mask is None:
            return seg_opr.predict_upsampled(logits_u0, batch.unlabeled_0.shape[-2:])
        logits_u1 = networks.logits(batch.unlabeled_1, branch)
        return seg_opr.predict_mixed(logits_u0, logits_u1, batch.mask)


def counted_pixels(batch: TrainBatch) -> Tensor:
    """Pixels of the mixed unlabelled images that are not padding, (B, H, W) bool."""
    if batch.mask is None:
        return batch.valid_0[:, 0].bool()
    return seg_opr.cutmix(batch.valid_0, batch.valid_1, batch.mask)[:, 0].bool()


def mean_counted(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean () of values (B, H, W) over the pixels that count, (B, H, W) bool or None for all; 0 if none does."""
    values = values.float()
    return values.mean() if counted is None else (values * counted).sum() / counted.sum().clamp(min=1)


def draw_boxes(batch: TrainBatch, number: int = 0) -> Tensor:
    """UniMatch's CutMix masks (B, 1, H, W) bool for view `number`, each with at most one box."""
    import torch

    images = batch.images  # same size and number as the unlabelled images
    streams = [batch.draws.stream(datasets.Purpose.BOX, number, index=index) for index in range(len(images))]
    masks = [torch.from_numpy(datasets.draw_box(images.shape[-2:], rng)) for rng in streams]
    return datasets.uploaded(torch.stack(masks)[:, None], images.device)
