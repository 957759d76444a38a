"""Confusion matrix, and IoU and accuracy computed from it."""

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
    # Ignored pixels go to an extra bin at the end: boolean indexing would make the host wait.
    pairs = torch.where(valid, target * num_classes + prediction, num_classes**2)
    return count(pairs, num_classes**2 + 1)[:-1].view(num_classes, num_classes)


def count(values: Tensor, bins: int) -> Tensor:
    """Count each integer from 0 to `bins` - 1 in `values` (N,), int32 or int64; returns (bins,) whole numbers."""
    if values.is_cuda:
        # bincount would make the host wait for the largest value; on a GPU histc counts integers exactly.
        return torch.histc(values, bins, 0, bins)
    return torch.bincount(values, minlength=bins)


def exact(values: Tensor) -> Tensor:
    """Values in float64; in float32 on a device without float64 (Apple's GPUs)."""
    return values.double() if has_float64(values.device) else values.float()


def has_float64(device: torch.device) -> bool:
    """False for Apple's GPUs."""
    return device.type != "mps"


def class_iou(confusion: Tensor) -> Tensor:
    """IoU (K,) float64 per class from counts (K, K); NaN for classes in neither target nor prediction."""
    counts = exact(confusion)
    hits = counts.diag()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Share () float64 of correct pixels from counts (K, K); NaN if there are no pixels."""
    counts = exact(confusion)
    return counts.diag().sum() / counts.sum()
