"""Metrics of an evaluation: `C.eval_metrics` lists them by name. A new metric is one more class in this file."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from furnace.seg_opr.confusion import class_iou, confusion_matrix, count, exact, pixel_accuracy
from furnace.utils.errors import UserError
from furnace.utils.names import Registry

BOUNDARY_WIDTH = 0.02  # share of the image's diagonal


class Metric:
    """Contract of a metric, which is built with `num_classes` (K) and a device and has counts in `state`.

    `state` is a tensor of any shape that adds up over images and processes. The class attributes map the names of
    values, which are keys of results.json, to titles:

        numbers: values in [0, 1]; the first number of the first metric ranks snapshots and methods.
        per_class: values (K,); each is a column in the tables of classes.
        matrices: counts (K, K) with labels in rows; each is a plot.
        means: for a number that is a mean over classes, the name of its value in `per_class` (not a title).
        note: explanation for readers of the tables, one or two sentences.
    """

    numbers: ClassVar[Mapping[str, str]]
    per_class: ClassVar[Mapping[str, str]] = {}
    matrices: ClassVar[Mapping[str, str]] = {}
    means: ClassVar[Mapping[str, str]] = {}
    note: ClassVar[str] = ""
    state: Tensor

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        raise NotImplementedError

    def update(self, labels: Tensor, prediction: Tensor) -> None:
        """Add an image: labels (H, W) of any integer type, ignored if outside 0..K-1; prediction (H, W) in 0..K-1.

        Both are on the metric's device. The host must not wait for the device.
        """
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """All values by name, on the device of `state`; NaN if a value is undefined."""
        raise NotImplementedError


METRICS: Registry[type[Metric]] = Registry("metric")
# Keys of an entry of results.json beside the values of the metrics.
TAKEN = frozenset({
    "sha256", "stamp", "run", "images_content", "amp", "snapshot", "epoch", "images", "branch", "eval_source", "scales",
    "flip", "crop", "stride_rate", "seconds", "finished", "classes", "per_image",
})  # fmt: skip


class MetricList:
    """Several metrics, and the titles of their values by name; `main` is the value that ranks snapshots and methods.

    `mains` holds the first number of every metric, in the order of the list.

    Args:
        names: of metrics, at least one.

    Raises:
        UserError: a metric is unknown or names no number, `names` is empty, or a name of a value is taken.
    """

    def __init__(self, names: Iterable[str]):
        self.metrics = [METRICS.find(name) for name in dict.fromkeys(names)]
        if not self.metrics:
            raise UserError(f"eval_metrics: is empty; name at least one of {', '.join(METRICS)}")
        check_names(self.metrics)
        self.numbers, self.per_class, self.matrices, self.means = (
            {name: title for metric in self.metrics for name, title in getattr(metric, kind).items()}
            for kind in ("numbers", "per_class", "matrices", "means")
        )
        self.mains = dict(next(iter(metric.numbers.items())) for metric in self.metrics)
        self.main = next(iter(self.mains))
        self.notes = [metric.note for metric in self.metrics if metric.note]

    def build(self, num_classes: int, device: torch.device) -> list[Metric]:
        """New metrics, without images."""
        return [metric(num_classes, device) for metric in self.metrics]

    def rank_of(self, values: Mapping[str, Any]) -> float:
        """The value of results.json that ranks snapshots; -1 if it is undefined."""
        value = values[self.main]
        return -1.0 if value is None else value

    def coverage(self, number: str, values: Mapping[str, Any]) -> str:
        """ "over 19 of 21 classes" for a mean over classes, else "". `values` are those of results.json."""
        of_classes = values.get(self.means.get(number, ""))
        if of_classes is None:
            return ""
        return f"over {sum(value is not None for value in of_classes)} of {len(of_classes)} classes"


def check_names(metrics: Iterable[type[Metric]]) -> None:
    """Raise UserError if a metric names no number, or if a name of its values is taken."""
    owners: dict[str, type[Metric] | None] = dict.fromkeys(TAKEN)
    for metric in metrics:
        if not getattr(metric, "numbers", None) or not isinstance(metric.numbers, Mapping):
            raise UserError(f"metric {metric.__name__}: names no number; `numbers` maps at least one name to its title")
        for name in (*metric.numbers, *metric.per_class, *metric.matrices):
            if (owner := owners.setdefault(name, metric)) is not metric:
                whose = owner.__name__ if owner else "results.json"
                raise UserError(f"metric {metric.__name__}: the name {name!r} belongs to {whose}; choose another one")


def check_values(metric: Metric, num_classes: int) -> None:
    """Raise UserError if a metric does not give all values that its class names, each in its shape."""
    if not isinstance(getattr(metric, "state", None), Tensor):
        raise UserError(f"metric {type(metric).__name__}: has no tensor `state`, which holds its counts")
    values = metric.compute()
    if not isinstance(values, Mapping):
        raise UserError(f"metric {type(metric).__name__}: compute() gives a {type(values).__name__}, not a dictionary")
    if missing := sorted({*metric.numbers, *metric.per_class, *metric.matrices} - values.keys()):
        raise UserError(
            f"metric {type(metric).__name__}: compute() gives no {missing[0]!r}, which the class names; it gives "
            f"{', '.join(map(repr, values)) or 'nothing'}"
        )
    for names, sides in ((metric.numbers, 0), (metric.per_class, 1), (metric.matrices, 2)):
        for name in names:
            found, wanted = values[name], (num_classes,) * sides
            if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
                shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
                raise UserError(
                    f"metric {type(metric).__name__}: {name!r} is a {type(found).__name__}{shape}; it must be a tensor "
                    f"of shape {wanted}"
                )


@METRICS.register("iou")
class IoU(Metric):
    """IoU and accuracy per class, their means, and pixel accuracy, from a confusion matrix over all images."""

    numbers: ClassVar = {
        "miou": "mIoU",
        "miou_no_background": "mIoU without class 0",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean class accuracy",
    }
    per_class: ClassVar = {"iou": "IoU", "accuracy": "accuracy", "pixel_share": "support"}
    matrices: ClassVar = {"confusion": "confusion matrix"}
    means: ClassVar = {"miou": "iou", "mean_accuracy": "accuracy"}
    note: ClassVar = (
        "IoU: the mean leaves out classes that are absent from labels and predictions; a class that is predicted "
        "but absent from the labels counts as 0. Mean class accuracy: over the classes in the labels. Support: the "
        "class's share of the labelled pixels."
    )

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.state = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, labels: Tensor, prediction: Tensor) -> None:
        self.state += confusion_matrix(labels, prediction, len(self.state))

    def compute(self) -> dict[str, Tensor]:
        counts = exact(self.state)
        iou, of_class = class_iou(counts), counts.sum(1)
        accuracy = counts.diag() / of_class
        return {
            "miou": iou.nanmean(),
            "miou_no_background": iou[1:].nanmean(),
            "pixel_accuracy": pixel_accuracy(counts),
            "mean_accuracy": accuracy.nanmean(),
            "iou": iou,
            "accuracy": accuracy,
            "pixel_share": of_class / of_class.sum(),
            "confusion": self.state,
        }


@METRICS.register("boundary_iou")
class BoundaryIoU(Metric):
    """IoU of the pixels near the contours of label and prediction, per class over all images.

    Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. Ignored pixels are
    ignored in the prediction, too: both have a contour along ignored pixels and along the image border.
    """

    numbers: ClassVar = {"boundary_miou": "boundary mIoU"}
    per_class: ClassVar = {"boundary_iou": "boundary IoU"}
    means: ClassVar = {"boundary_miou": "boundary_iou"}
    note: ClassVar = (
        f"Boundary IoU: IoU of the pixels whose distance from a contour is at most {100 * BOUNDARY_WIDTH:g} % of the "
        "image's diagonal; absent classes count as for IoU."
    )

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.state = torch.zeros(2, num_classes, dtype=torch.int64, device=device)  # intersection, union

    def update(self, labels: Tensor, prediction: Tensor) -> None:
        K = self.state.shape[1]
        labels = labels.long()
        valid = (labels >= 0) & (labels < K)
        target, found = (boundary(values.where(valid, K), K) for values in (labels, prediction.long()))
        shared = target.where(target == found, K)
        of_target, of_found, both = (count(values.flatten(), K + 1)[:K] for values in (target, found, shared))
        self.state += torch.stack([both, of_target + of_found - both])

    def compute(self) -> dict[str, Tensor]:
        intersection, union = exact(self.state)
        iou = intersection / union
        return {"boundary_miou": iou.nanmean(), "boundary_iou": iou}


def boundary(labels: Tensor, fill: int) -> Tensor:
    """Labels (H, W) int64 near contours, `fill` elsewhere.

    A pixel is near a contour if the square around it contains another label or reaches outside the image. The square
    extends by `BOUNDARY_WIDTH` of the diagonal, at least one pixel. As many 3 x 3 erosions remove the same pixels.
    """
    reach = max(1, round(BOUNDARY_WIDTH * math.hypot(*labels.shape)))
    padded = F.pad(labels[None, None].float(), [reach] * 4, value=-1)
    highest, lowest = square_maximum(padded, reach), -square_maximum(-padded, reach)
    return labels.where((highest != lowest)[0, 0], fill)


def square_maximum(values: Tensor, reach: int) -> Tensor:
    """Maximum (B, C, H, W) over squares of sides 2 `reach` + 1 within values (B, C, H + 2 reach, W + 2 reach)."""
    side = 2 * reach + 1
    return F.max_pool2d(F.max_pool2d(values, (1, side), stride=1), (side, 1), stride=1)
