"""Pseudo labels of CPCL (Fan et al., IEEE TIP 2023): intersection, union, and their confidence weights."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from furnace.seg_opr.confusion import confusion_matrix, exact
from furnace.seg_opr.upsampled import kernels, map_bands
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.labels import IGNORE_INDEX


class Predictions(NamedTuple):
    """Likeliest class of each pixel, `labels` (B, H, W) int64, and its soft-max `confidence` (B, H, W)."""

    labels: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo labels that two teachers give to a batch of unlabelled images.

    Attributes:
        intersection: (B, H, W) int64, the label where both agree, else 255; for the conservative network.
        union: (B, H, W) int64, the label where both agree, else the label of the branch whose class has more
            disagreement; for the progressive network.
        weight_intersection, weight_union: (B, H, W), confidence of these labels.
        class_weight: (K,) float64, share of each class in the disagreement.
        overlap: () float64, share of the counted pixels on which the teachers agree.
        predictions: of each teacher.
    """

    intersection: Tensor
    union: Tensor
    weight_intersection: Tensor
    weight_union: Tensor
    class_weight: Tensor
    overlap: Tensor
    predictions: tuple[Predictions, Predictions]


def make_pseudo_labels(logits_1: Tensor, logits_2: Tensor, whole: WholeBatch = ALONE) -> PseudoLabels:
    """Combine the mixed teacher logits (B, K, H, W) of both networks; agreement is counted over the whole batch."""
    teachers = predict(logits_1), predict(logits_2)
    return combine(*teachers, agreement(*teachers, logits_1.shape[1], whole=whole))


def predict(logits: Tensor) -> Predictions:
    """Likeliest class of each pixel and its probability, from logits (B, K, H, W)."""
    confidence, labels = logits.softmax(1).max(1)
    return Predictions(labels, confidence)


def predict_upsampled(logits: Tensor, size: tuple[int, int]) -> Predictions:
    """`predict` on logits (B, K, h, w) upsampled to `size` (H, W)."""
    if fused := kernels(logits):
        return Predictions(*fused.predict(logits, size))
    return Predictions(*map_bands(predict, [logits], size))


def predict_mixed(logits_0: Tensor, logits_1: Tensor, mask: Tensor) -> Predictions:
    """`predict` on two logit maps (B, K, h, w), upsampled and mixed: the second where the mask (B, 1, H, W) is 1."""
    if fused := kernels(logits_0):
        return Predictions(*fused.predict_mixed(logits_0, logits_1, mask))

    def of_band(logits_0: Tensor, logits_1: Tensor, mask: Tensor) -> Predictions:
        return predict(cutmix(logits_0, logits_1, mask.unsqueeze(1)))

    return Predictions(*map_bands(of_band, [logits_0, logits_1], mask.shape[-2:], mask.squeeze(1)))


def cutmix(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """`inside` (B, C, H, W) where the mask (B, 1, H, W) is 1, `outside` where it is 0."""
    return torch.where(mask.bool(), inside, outside)


def agreement(
    first: Predictions, second: Predictions, num_classes: int, counted: Tensor | None = None, whole: WholeBatch = ALONE
) -> Tensor:
    """Number of pixels of the whole batch by both teachers' labels, (K, K) int64.

    Args:
        first, second: of the teachers.
        num_classes: K.
        counted: (B, H, W) bool, False for pixels outside the image, such as padding; None if all count.
        whole: sums over the processes that share the batch.
    """
    labels = first.labels if counted is None else first.labels.where(counted, IGNORE_INDEX)
    return whole.total(confusion_matrix(labels, second.labels, num_classes))


def combine(
    first: Predictions,
    second: Predictions,
    counts: Tensor,
    choice: str = "disagreement",
    running: Tensor | None = None,
) -> PseudoLabels:
    """Intersection and union of two teachers' predictions.

    Args:
        first, second: of the teachers.
        counts: (K, K), their `agreement`.
        choice: where they differ, the union takes the class with more "disagreement" or the prediction with more
            "confidence".
        running: (K, K), replaces `counts` in the disagreement; None: `counts`.
    """
    # The identity keeps the shares finite for classes without predictions.
    counts, seen = (
        matrix + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        for matrix in (counts, counts if running is None else running)
    )
    class_weight = disagreement(seen)

    agree = first.labels == second.labels
    if choice == "confidence":
        take_first = agree | (first.confidence > second.confidence)
    else:
        take_first = agree | (class_weight[first.labels] > class_weight[second.labels])
    mean_confidence = (first.confidence + second.confidence) / 2
    return PseudoLabels(
        intersection=first.labels.where(agree, IGNORE_INDEX),
        union=first.labels.where(take_first, second.labels),
        weight_intersection=mean_confidence,
        weight_union=mean_confidence.where(agree, first.confidence.where(take_first, second.confidence)),
        class_weight=class_weight,
        overlap=exact(counts.diag().sum()) / counts.sum(),
        predictions=(first, second),
    )


def disagreement(counts: Tensor) -> Tensor:
    """Share of each class in the disagreement of two label maps, (K,) float64, from their counts (K, K)."""
    counts = exact(counts)
    same, of_first, of_second = counts.diag(), counts.sum(1), counts.sum(0)
    shares = (of_second - same) / of_second + (of_first - same) / of_first
    return shares / (shares.sum() + 1e-6)
