"""Pseudo labels of CPCL (Fan et al., IEEE TIP 2023): intersection, union, and their confidence weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from furnace.seg_opr.confusion import confusion_matrix
from furnace.seg_opr.losses import IGNORE_INDEX
from furnace.seg_opr.whole_batch import ALONE, WholeBatch


@dataclass(frozen=True)
class PseudoLabels:
    """What two teachers say of a batch of unlabelled images.

    Attributes:
        intersection: (B, H, W) int64, the label where both agree, else 255; for the conservative network.
        union: (B, H, W) int64, the label where both agree, else that of the branch whose class is in
            more disagreement; for the progressive network.
        weight_intersection, weight_union: (B, H, W), confidence of those labels.
        class_weight: (K,) float64, share of each class in the disagreement.
        overlap: () float64, share of the pixels on which the teachers agree.
        labels: (2, B, H, W) int64, each teacher's own labels.
        confidence: (2, B, H, W), their soft-max probabilities.
    """

    intersection: Tensor
    union: Tensor
    weight_intersection: Tensor
    weight_union: Tensor
    class_weight: Tensor
    overlap: Tensor
    labels: Tensor
    confidence: Tensor


def make_pseudo_labels(logits_1: Tensor, logits_2: Tensor, whole: WholeBatch = ALONE) -> PseudoLabels:
    """Combine the mixed teacher logits (B, K, H, W) of both networks; agreement is counted over the whole batch."""
    confidence_1, labels_1 = logits_1.softmax(1).max(1)
    confidence_2, labels_2 = logits_2.softmax(1).max(1)
    num_classes = logits_1.shape[1]
    agreement = whole.total(confusion_matrix(labels_1, labels_2, num_classes))
    # The identity keeps the shares finite for classes that nobody predicts.
    agreement = agreement + torch.eye(num_classes, dtype=agreement.dtype, device=agreement.device)
    return combine(labels_1, labels_2, confidence_1, confidence_2, agreement)


def combine(
    labels_1: Tensor, labels_2: Tensor, confidence_1: Tensor, confidence_2: Tensor, agreement: Tensor
) -> PseudoLabels:
    """Intersection and union of two label maps.

    Args:
        labels_1, labels_2: (B, H, W) int64.
        confidence_1, confidence_2: (B, H, W), probability of those labels.
        agreement: (K, K) counts of `labels_1` (rows) and `labels_2` (columns), identity included.
    """
    class_weight = disagreement(agreement)
    agree = labels_1 == labels_2
    first = agree | (class_weight[labels_1] > class_weight[labels_2])
    mean_confidence = (confidence_1 + confidence_2) / 2
    return PseudoLabels(
        intersection=labels_1.where(agree, IGNORE_INDEX),
        union=labels_1.where(first, labels_2),
        weight_intersection=mean_confidence,
        weight_union=mean_confidence.where(agree, confidence_1.where(first, confidence_2)),
        class_weight=class_weight,
        overlap=agreement.diag().sum().double() / agreement.sum(),
        labels=torch.stack([labels_1, labels_2]),
        confidence=torch.stack([confidence_1, confidence_2]),
    )


def disagreement(agreement: Tensor) -> Tensor:
    """Share of each class in the disagreement of two label maps, (K,) float64, from their counts (K, K)."""
    counts = agreement.double()
    same, of_first, of_second = counts.diag(), counts.sum(1), counts.sum(0)
    shares = (of_second - same) / of_second + (of_first - same) / of_first
    return shares / (shares.sum() + 1e-6)
