"""Confusion matrix and the scores that follow from it."""

from dataclasses import dataclass

import torch
from torch import Tensor


def confusion_matrix(target: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by target (rows) and prediction (columns).

    Args:
        target: integers of any shape; values outside 0..K-1 are ignored.
        prediction: integers in 0..K-1, of the same shape.
        num_classes: K.

    Returns:
        (K, K) int64, on the device of the inputs.
    """
    target, prediction = target.flatten().long(), prediction.flatten().long()
    valid = (target >= 0) & (target < num_classes)
    # Ignored pixels go to one bin past the end: no boolean indexing, which would make the host wait.
    pairs = torch.where(valid, target * num_classes + prediction, num_classes**2)
    return count(pairs, num_classes**2 + 1)[:-1].view(num_classes, num_classes)


def count(values: Tensor, bins: int) -> Tensor:
    """How often each of 0 to `bins` - 1 occurs among int64 `values` (N,): (bins,) int64."""
    if values.is_cuda:
        # bincount would make the host wait for the largest value; on a GPU histc counts integers, exactly.
        return torch.histc(values, bins, 0, bins)
    return torch.bincount(values, minlength=bins)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. Shares in [0, 1]; NaN where nothing is there to measure.

    `iou`, `accuracy`: (K,) float64 per class. `miou`: mean of `iou` over the classes that occur;
    `miou_no_background`: the same without class 0. `pixel_accuracy`: share of the labelled pixels that
    are right; `mean_accuracy`: mean over classes of the share of their pixels that are right.
    """

    iou: Tensor
    accuracy: Tensor
    miou: float
    miou_no_background: float
    pixel_accuracy: float
    mean_accuracy: float


def class_iou(confusion: Tensor) -> Tensor:
    """IoU (K,) float64 of each class from counts (K, K); NaN where neither target nor prediction has it."""
    counts = confusion.double()
    hits = counts.diag()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def scores(confusion: Tensor) -> Scores:
    """Scores of a confusion matrix (K, K) with targets in its rows."""
    confusion = confusion.cpu().double()
    hits, iou = confusion.diag(), class_iou(confusion)
    accuracy = hits / confusion.sum(1)
    return Scores(
        iou=iou,
        accuracy=accuracy,
        miou=iou.nanmean().item(),
        miou_no_background=iou[1:].nanmean().item(),
        pixel_accuracy=(hits.sum() / confusion.sum()).item(),
        mean_accuracy=accuracy.nanmean().item(),
    )
