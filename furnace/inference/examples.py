"""Example images of the report: choose them, and describe each by small pictures, IoU and errors per class."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from furnace.datasets.catalog import Classes
from furnace.seg_opr.confusion import class_iou, confusion_matrix
from furnace.utils.visualize import full_palette

EXAMPLES = 24  # images per report, which stays small enough for e-mail
EXTREMES = 6  # number of the worst images and of the best images among them
EXAMPLE_HEIGHT = 400
JPEG_QUALITY = 85
ERROR_COLOUR = (255, 0, 64)
LEAST_ERROR = 0.005  # share of an image's labelled pixels; smaller errors are not listed
LISTED_ERRORS = 20


@dataclass(frozen=True)
class Example:
    """An evaluated image (H, W, 3), its ground truth and prediction (H, W), uint8, and the value that ranks it."""

    name: str
    score: float
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


def choose_examples(scores: Sequence[float | None], shows: Tensor, count: int = EXAMPLES) -> list[int]:
    """Indices of the images to show, worst first: the worst, the best, one per class, and others evenly spaced.

    Args:
        scores: of N images; None if nothing can be measured; such images are left out.
        shows: (N, K) bool, True if a class is in the label of an image.
        count: maximum number of images.
    """
    order = sorted((i for i, score in enumerate(scores) if score is not None), key=lambda i: (scores[i], i))
    if len(order) <= count:
        return order
    extremes = min(EXTREMES, count // 2)
    chosen = dict.fromkeys(order[:extremes] + order[-extremes:])
    for k in shows.sum(0).argsort().tolist():  # rare classes first
        if not shows[list(chosen), k].any():
            chosen |= dict.fromkeys([i for i in order if shows[i, k]][:1])
    left = [i for i in order if i not in chosen]
    missing = max(count - len(chosen), 0)
    chosen |= dict.fromkeys(left[round((n + 0.5) * len(left) / missing - 0.5)] for n in range(missing))
    kept = set(list(chosen)[:count])
    return [i for i in order if i in kept]


def example_row(example: Example, classes: Classes) -> dict[str, Any]:
    """An example as shown on the page.

    Name, score, shape, `iou` of each class in label or prediction, `errors` as in `errors_of`, pictures as data URIs.
    """
    label, prediction = example.label, example.prediction
    K = len(classes.names)
    confusion = confusion_matrix(torch.tensor(label), torch.tensor(prediction), K)
    found = class_iou(confusion).tolist()
    wrong = (label != prediction) & (label < K)
    return {
        "name": example.name,
        "score": example.score,
        "size": label.shape,
        "iou": {k: round(iou, 4) for k, iou in enumerate(found) if iou == iou},  # NaN if in neither of the two
        "errors": errors_of(confusion),
        "pictures": {
            "image": photo_uri(example.image),
            "prediction": labels_uri(prediction, full_palette(classes.palette)),
            "truth": labels_uri(label, full_palette(classes.palette)),
            "errors": labels_uri(wrong.astype(np.uint8), np.array([(0, 0, 0), ERROR_COLOUR], np.uint8)),
        },
    }


def errors_of(confusion: Tensor) -> dict[str, int]:
    """Pixels of each listed error, by class numbers "true-predicted". `confusion` (K, K) int64."""
    least = max(LEAST_ERROR * confusion.sum().item(), 1)
    wrong = confusion - confusion.diag().diag()
    return {f"{true}-{found}": wrong[true, found].item() for true, found in (wrong >= least).nonzero().tolist()}


def frequent_errors(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """The errors with the most pixels in the examples: their keys in `errors`, and their names."""
    pixels = Counter()
    for row in rows:
        pixels.update(row["errors"])
    pairs = [(key, *map(int, key.split("-"))) for key, _ in pixels.most_common(LISTED_ERRORS)]
    return {key: f"{names[true]} predicted as {names[found]}" for key, true, found in pairs}


def photo_uri(picture: np.ndarray) -> str:
    """Data URI of an RGB picture (H, W, 3) uint8: a JPEG, scaled down to `EXAMPLE_HEIGHT`."""
    file = BytesIO()
    Image.fromarray(scaled_down(picture, cv2.INTER_AREA)).save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def labels_uri(labels: np.ndarray, palette: np.ndarray) -> str:
    """Data URI of labels (H, W) uint8: a scaled-down PNG in the colours of `palette` (N, 3); black is transparent."""
    picture = Image.fromarray(scaled_down(labels, cv2.INTER_NEAREST), mode="P")
    picture.putpalette(palette.tobytes())
    file = BytesIO()
    alpha = np.where(palette.any(axis=1), 255, 0).astype(np.uint8)
    picture.save(file, "PNG", optimize=True, transparency=alpha.tobytes())
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scaled_down(picture: np.ndarray, interpolation: int) -> np.ndarray:
    """A picture (H, W, ...), scaled down if it is higher than `EXAMPLE_HEIGHT`."""
    height, width = picture.shape[:2]
    if height <= EXAMPLE_HEIGHT:
        return picture
    return cv2.resize(
        picture, (max(round(width * EXAMPLE_HEIGHT / height), 1), EXAMPLE_HEIGHT), interpolation=interpolation
    )
