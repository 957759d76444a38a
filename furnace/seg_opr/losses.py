"""Supervised and unsupervised cross entropies over pixels.

Logits may have a lower resolution than the labels: they are upsampled in bands of rows (see `upsampled`), or by
kernels on a GPU (see `fused`). OHEM: Shrivastava et al., CVPR 2016, in the form of the published code for Cityscapes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from furnace.seg_opr.confusion import count
from furnace.seg_opr.upsampled import kernels, map_bands, sum_over_bands
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.labels import IGNORE_INDEX

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
DIGIT_BITS = 11  # of the histograms of `kth_smallest`


def mean_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    whole: WholeBatch = ALONE,
) -> Tensor:
    """Cross entropy, averaged (with the class weights) over the pixels that are not ignored; 0 if all are.

    Args:
        logits: (B, K, h, w) float32 or float64, at the resolution of the labels or lower.
        labels: (B, H, W) int64.
        class_weight: (K,) or None.
        ignore_index: label of the pixels that do not count.
        whole: how to sum over the processes that share the batch.

    Returns:
        () of the dtype of `logits`.
    """
    valid = labels != ignore_index
    weight = valid if class_weight is None else class_weight[labels.where(valid, 0)] * valid
    normalizer = whole.mean(weight.sum(dtype=logits.dtype))
    total = cross_entropy_sum(logits, labels, None if class_weight is None else weight, ignore_index)
    # If no pixel is valid, the sum is 0: dividing by 1 keeps value and gradient at 0 instead of NaN.
    return total / normalizer.where(normalizer > 0, 1)


def weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    counted: Tensor | None = None,
    whole: WholeBatch = ALONE,
) -> Tensor:
    """Cross entropy times a weight per pixel, averaged over all counted pixels; ignored pixels count as 0.

    Args:
        logits: (B, K, h, w) float32 or float64, at the resolution of the labels or lower.
        labels: (B, H, W) int64.
        weight: (B, H, W), None for 1.
        counted: (B, H, W) bool, False for pixels outside the image, such as padding; None if all count.
        whole: as in `mean_cross_entropy`.

    Returns:
        () of the dtype of `logits`; 0 if no pixel is counted.
    """
    pixels = torch.full((), labels.numel(), dtype=logits.dtype, device=logits.device)
    if counted is not None:
        weight = counted if weight is None else weight * counted
        pixels = counted.sum(dtype=logits.dtype)
    pixels = whole.mean(pixels)
    return cross_entropy_sum(logits, labels, weight) / pixels.where(pixels > 0, 1)


def cross_entropy_sum(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Sum () over all pixels of cross entropy times `weight` (B, H, W), None for 1; ignored pixels count as 0."""
    if fused := kernels(logits):
        losses = fused.cross_entropy(logits, labels, ignore_index)
        return (losses if weight is None else losses * weight).sum()

    def of_band(logits: Tensor, labels: Tensor, *weights: Tensor) -> Tensor:
        if not weights:
            return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
        losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
        return (losses * weights[0]).sum()

    return sum_over_bands(of_band, logits, labels, *([] if weight is None else [weight]))


def hard_pixels(
    logits: Tensor,
    labels: Tensor,
    thresh: float,
    min_kept: int,
    ignore_index: int = IGNORE_INDEX,
    whole: WholeBatch = ALONE,
) -> Tensor:
    """Labels with easy pixels ignored, too: a pixel is easy if the probability of its class is above `thresh`.

    The threshold rises until the `min_kept` hardest pixels of the whole batch are kept; with fewer than `min_kept`
    valid pixels, or with `min_kept` 0, all pixels are kept. Shapes as in `mean_cross_entropy`.
    """
    if min_kept == 0:
        return labels
    probability = label_probability(logits, labels, ignore_index)
    easiest_kept = kth_smallest(probability, min_kept, whole)
    dropped = probability > easiest_kept.clamp(min=thresh)  # NaN is kept, so that it shows in the loss
    return labels.where(~dropped, ignore_index)


def label_probability(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Probability (B, H, W) of each pixel's own class, without a gradient; shapes as in `mean_cross_entropy`.

    Ignored pixels have 1: if too few pixels are valid, the kth smallest is 1, and no pixel is dropped.
    """
    if fused := kernels(logits):
        return fused.cross_entropy(logits.detach(), labels, ignore_index).neg_().exp_()

    def of_band(logits: Tensor, labels: Tensor) -> tuple[Tensor]:
        return (logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1),)

    valid = labels != ignore_index
    (probability,) = map_bands(of_band, [logits], labels.shape[-2:], labels.where(valid, 0))
    return probability.where(valid, 1)


def kth_smallest(values: Tensor, k: int, whole: WholeBatch = ALONE) -> Tensor:
    """The exact kth smallest () of floating-point `values` >= 0 of any shape; the largest if there are fewer than k.

    Radix selection: floats >= 0 have the same order as their bits, read as integers. A histogram of the highest bits
    finds the bin of the wanted value, a second one within that bin the next bits, and so on. This takes a few passes
    over the values and no sorting; processes exchange only the histograms, and the host does not wait.
    """
    if values.device.type == "cpu" and whole is ALONE:
        return values.flatten().kthvalue(min(k, values.numel())).values
    bits = values.abs().flatten().view(INTEGERS[values.element_size()])  # abs: -0 and NaN may have a sign bit
    wanted = whole.total(torch.full((), values.numel(), device=values.device)).clamp(max=k)
    found = torch.zeros((), dtype=bits.dtype, device=values.device)
    for shift in reversed(range(0, 8 * values.element_size(), DIGIT_BITS)):
        digits = (bits >> shift) & (2**DIGIT_BITS - 1)
        # Two shifts, because for the highest digit one shift by all bits would be undefined.
        inside = (bits >> shift >> DIGIT_BITS) == found
        counts = whole.total(count(digits.where(inside, 2**DIGIT_BITS).int(), 2**DIGIT_BITS + 1)[:-1].long())
        until = counts.cumsum(0)
        digit = (until < wanted).sum(0, keepdim=True)
        wanted = wanted - (until - counts).gather(0, digit)[0]
        found = (found << DIGIT_BITS) | digit[0].to(found.dtype)
    return found.view(values.dtype)


class MeanCrossEntropy(nn.Module):
    """`mean_cross_entropy` with fixed class weights, (K,) or None."""

    def __init__(self, ignore_index: int = IGNORE_INDEX, class_weight: Tensor | None = None, whole: WholeBatch = ALONE):
        super().__init__()
        self.ignore_index, self.whole = ignore_index, whole
        self.register_buffer("class_weight", class_weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return mean_cross_entropy(logits, labels, self.class_weight, self.ignore_index, self.whole)


class OhemCrossEntropy(MeanCrossEntropy):
    """Mean cross entropy over the hard pixels.

    Args:
        ignore_index: label of the pixels that do not count.
        thresh: a pixel is hard if the probability of its class is at most this.
        min_kept: smallest number of pixels to keep in the whole batch; 0 switches the selection off.
        class_weight: (K,) or None.
        whole: how to sum over the processes that share the batch.

    `forward(logits (B, K, h, w), labels (B, H, W) int64)` gives ().
    """

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        thresh: float = 0.7,
        min_kept: int = 0,
        class_weight: Tensor | None = None,
        whole: WholeBatch = ALONE,
    ):
        super().__init__(ignore_index, class_weight, whole)
        self.thresh, self.min_kept = thresh, min_kept

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = hard_pixels(logits, labels, self.thresh, self.min_kept, self.ignore_index, self.whole)
        return super().forward(logits, labels)
