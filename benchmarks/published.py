"""The published arrangement of a training step and of an evaluation, with the mathematics and networks of ours."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from torch import Tensor

from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.seg_opr.pseudo_label import disagreement
from furnace.seg_opr.sliding import rescale, starts
from furnace.utils.labels import IGNORE_INDEX

STEP = (
    "published: float32, logits at full resolution, one graph for all losses, OHEM by sorting all pixels, agreement "
    "counted by scikit-learn on the host. Not run: its loader, its logging, several GPUs"
)
EVALUATION = (
    "published: float32, one window at a time, prepared by NumPy in float64; scores summed on the device, copied to "
    "the host once per image and scale, resized and compared there. Not run: reading "
    "and writing files, the confusion matrix"
)


def published_precision() -> AbstractContextManager:
    """Context with PyTorch's default precision and convolution autotuning, independent of our settings."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)


def published_losses(
    network: Network,
    batch: TrainBatch,
    class_weight: Tensor | None,
    unsup_weight: float,
    ohem: int,
    thresh: float = 0.7,
) -> Tensor:
    """Loss () of one CPCL step; `ohem` is `min_kept` for the batch, or 0 for plain cross entropy."""
    supervised = sum(
        supervised_loss(network(batch.images, b), batch.labels, class_weight, ohem, thresh) for b in (1, 2)
    )

    mask = batch.mask.to(batch.images.dtype)
    with torch.no_grad():
        teachers = [network(batch.unlabeled_0, b) * (1 - mask) + network(batch.unlabeled_1, b) * mask for b in (1, 2)]
        (c_1, l_1), (c_2, l_2) = (teacher.softmax(1).max(1) for teacher in teachers)
        weight = disagreement(torch.from_numpy(agreement_on_cpu(l_1, l_2, network.num_classes))).to(c_1)
        agree = l_1 == l_2
        first = agree | (weight[l_1] > weight[l_2])
        intersection, union = l_1.where(agree, IGNORE_INDEX), l_1.where(first, l_2)
        w_inter = (c_1 + c_2) / 2
        w_union = w_inter.where(agree, c_1.where(first, c_2))

    mixed = batch.unlabeled_0 * (1 - mask) + batch.unlabeled_1 * mask
    unsupervised = 0
    for branch, labels, confidence in ((1, intersection, w_inter), (2, union, w_union)):
        losses = F.cross_entropy(network(mixed, branch), labels, ignore_index=IGNORE_INDEX, reduction="none")
        unsupervised = unsupervised + (losses * confidence).mean()
    return supervised + unsup_weight * unsupervised


def supervised_loss(logits: Tensor, labels: Tensor, class_weight: Tensor | None, ohem: int, thresh: float) -> Tensor:
    """Cross entropy (); OHEM sorts the pixels' probabilities and keeps the `ohem` lowest and all up to `thresh`."""
    if ohem:
        flat = labels.flatten()
        valid = flat != IGNORE_INDEX
        probability = logits.softmax(1).transpose(0, 1).flatten(1).detach()
        probability = probability[flat.where(valid, 0), torch.arange(len(flat), device=flat.device)].where(valid, 1)
        threshold = probability[probability.argsort()[min(len(flat), ohem) - 1]].clamp(min=thresh)
        labels = flat.where(valid & (probability <= threshold), IGNORE_INDEX).view_as(labels)
    return F.cross_entropy(logits, labels, class_weight, ignore_index=IGNORE_INDEX)


def agreement_on_cpu(labels_1: Tensor, labels_2: Tensor, num_classes: int) -> np.ndarray:
    """Confusion matrix (K, K) plus the identity, by scikit-learn on the host."""
    first, second = (labels.flatten().cpu().numpy() for labels in (labels_1, labels_2))
    return confusion_matrix(first, second, labels=np.arange(num_classes)) + np.eye(num_classes)


def published_prediction(
    network: Network,
    image: np.ndarray,
    crop: int,
    rate: float,
    mean: list[float],
    std: list[float],
    device: torch.device,
    scales: Sequence[float] = (1,),
    flip: bool = False,
) -> np.ndarray:
    """Label map (H, W) of an image (H, W, 3) uint8, window by window; scores are copied to the host once per scale."""
    height, width = image.shape[:2]
    total = np.zeros((height, width, network.num_classes))
    for scale in scales:
        scores = published_scores(network, rescale(image, scale), crop, rate, mean, std, device, flip)
        total += cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)
    return total.argmax(2)


def published_scores(
    network: Network,
    image: np.ndarray,
    crop: int,
    rate: float,
    mean: list[float],
    std: list[float],
    device: torch.device,
    flip: bool,
) -> np.ndarray:
    """Scores (H, W, K) of an image at one scale, summed over windows and mirrored windows."""
    height, width = image.shape[:2]
    # If the image fits into the window, it is padded with the mean (0 after normalisation), else with black.
    border = [255 * m for m in mean] if max(height, width) <= crop else [0, 0, 0]
    missing = [max(crop - side, 0) for side in (height, width)]
    padding = [(side // 2, side - side // 2) for side in missing]
    padded = cv2.copyMakeBorder(image.astype(np.float64), *padding[0], *padding[1], cv2.BORDER_CONSTANT, value=border)
    scores = torch.zeros((network.num_classes, *padded.shape[:2]), device=device)
    for y in starts(padded.shape[0], crop, rate):
        for x in starts(padded.shape[1], crop, rate):
            window = ((padded[y : y + crop, x : x + crop] / 255 - mean) / std).transpose(2, 0, 1)
            tensor = torch.from_numpy(np.ascontiguousarray(window, dtype=np.float32))[None].to(device)
            scores[:, y : y + crop, x : x + crop] += network(tensor, 1)[0]
            if flip:
                scores[:, y : y + crop, x : x + crop] += network(tensor.flip(-1), 1)[0].flip(-1)
    scores = scores[:, padding[0][0] : padding[0][0] + height, padding[1][0] : padding[1][0] + width]
    return scores.permute(1, 2, 0).cpu().numpy()
