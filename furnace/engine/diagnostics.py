"""Diagnostics of pseudo labels: strips of pictures, agreement per class, and warnings about a collapse."""

from pathlib import Path

import cv2
import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from furnace.datasets.batch import TrainBatch
from furnace.datasets.catalog import Classes, build_classes
from furnace.datasets.dataset import TrainSet
from furnace.engine.best_effort import BestEffort
from furnace.engine.collapse import CollapseWatch
from furnace.engine.distributed import rank
from furnace.engine.learner import StepOutput
from furnace.engine.monitor import logger
from furnace.engine.record import TRUTH, append_metrics
from furnace.engine.traces import STRIPS
from furnace.methods.method import Teaching
from furnace.seg_opr.confusion import class_iou, confusion_matrix, exact, pixel_accuracy
from furnace.seg_opr.pseudo_label import Predictions, cutmix
from furnace.utils.errors import UserError
from furnace.utils.fonts import missing_note
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings
from furnace.utils.visualize import IGNORED_COLOUR, caption, colour, heat, legend, save_picture, stack, strip
from furnace.utils.wording import percent

ROWS = 2  # images per strip
TILE_HEIGHT = 160
BINS = 20


class Diagnostics:
    """Record a run's pseudo labels every `C.record_info_iter` and `C.image_iter` iterations, in the first process.

    The last iteration has pictures, too; others cost nothing. Methods without a teacher have nothing to record; only
    CPCL has intersection and union.

    Args:
        C: checked settings.
        dataset: provides the withheld labels for the comparison by `C.diagnose`.
        run: name of the run, stored in records and strips.

    Raises:
        UserError: `C.diagnose` is set and the unlabelled images have no labels.
    """

    def __init__(self, C: Settings, dataset: TrainSet, run: str = ""):
        self.C, self.dataset, self.run = C, dataset, run
        self.classes = build_classes(C)
        self.collapse = CollapseWatch(self.classes)
        self.best_effort = BestEffort(logger.warning)
        self.told = False  # True after the check for a missing font
        if C.diagnose and dataset.unlabeled is not None:
            check_labels(dataset)

    def record(self, iteration: int, batch: TrainBatch, output: StepOutput, writer: SummaryWriter) -> None:
        """Record an iteration if it is due.

        Args:
            iteration: from 0.
            batch: as the loader returned it, uint8 on the host.
            output: of the learner's step; if the batch was split, the teaching is that of the last part.
            writer: TensorBoard's.
        """
        teaching = output.teaching
        if not teaching.predictions or rank() > 0:
            return
        done = iteration + 1
        if done % self.C.record_info_iter == 0:
            self.record_confidence(iteration, batch.labels, teaching, writer)
        if done % self.C.image_iter == 0 or done == self.C.total_iterations:
            count = len(next(iter(teaching.predictions.values())).labels)
            part = batch.map(lambda tensor: tensor[-count:])
            truth = self.withheld(iteration, batch, count) if self.C.diagnose else None
            self.show(iteration, part, teaching, truth, writer)
            if truth is not None:
                self.compare(iteration, teaching, truth, writer)

    def record_confidence(self, iteration: int, labels: Tensor, teaching: Teaching, writer: SummaryWriter) -> None:
        """Confidence of the teachers and, if there are two, their agreement."""
        for branch, predictions in teaching.predictions.items():
            writer.add_scalar(f"pseudo/confidence_{branch}", predictions.confidence.mean().item(), iteration)
        if teaching.pseudo is not None:
            weights = teaching.pseudo.class_weight.tolist()
            for name, weight in zip(self.classes.names, weights, strict=True):
                writer.add_scalar(f"disagreement_weight/{name}", weight, iteration)
        if len(teaching.predictions) == 2:
            self.record_agreement(iteration, labels, *teaching.predictions.values(), writer)

    def record_agreement(
        self, iteration: int, labels: Tensor, first: Predictions, second: Predictions, writer: SummaryWriter
    ) -> None:
        """Agreement of two branches, overall and per class, and warnings about a collapse."""
        K = self.C.num_classes
        agreement = confusion_matrix(first.labels, second.labels, K).cpu().double()
        apart = (first.confidence - second.confidence).abs().mean().item()
        writer.add_scalar("pseudo/intersection_share", (agreement.diag().sum() / agreement.sum()).item(), iteration)
        for name, agreed in zip(self.classes.names, class_iou(agreement).tolist(), strict=True):
            if agreed == agreed:  # NaN if neither branch predicts the class
                writer.add_scalar(f"agreement/{name}", agreed, iteration)
        shown = torch.bincount(labels.flatten().long().cpu(), minlength=IGNORE_INDEX + 1)[:K]
        for warning in self.collapse.step(agreement, apart, shown):
            logger.warning(f"iteration {iteration + 1}: {warning}")

    def show(
        self, iteration: int, batch: TrainBatch, teaching: Teaching, truth: Tensor | None, writer: SummaryWriter
    ) -> None:
        """Write the strip to TensorBoard and to a file, and histograms of the confidence to TensorBoard."""
        if not self.told and (note := missing_note(self.classes.names, "the legend of the strips")):
            logger.warning(note)
        self.told = True
        picture = draw_strip(batch, teaching, self.classes, truth)
        writer.add_image("pseudo/strip", picture, iteration, dataformats="HWC")
        folder = Path(self.C.log_dir) / STRIPS
        with self.best_effort(folder):
            save_picture(folder / f"iteration-{iteration + 1:06d}.png", picture, {"run": self.run})
        for branch, predictions in teaching.predictions.items():
            add_histogram(writer, f"confidence/branch_{branch}", predictions.confidence, iteration)

    def withheld(self, iteration: int, batch: TrainBatch, count: int) -> Tensor | None:
        """Labels (count, H, W) int64 for the last `count` mixed images of a batch.

        None if any image was replaced, or if a label can't be used, which the log says: training does not need it.
        """
        if batch.skipped:
            return None
        epoch, step = divmod(iteration, self.C.niters_per_epoch)
        size = len(batch.images)
        positions = [step * self.C.batch_size + i for i in range(size - count, size)]

        def stream(number: int) -> Tensor:
            crops = [self.dataset.withheld_label(epoch, position, number) for position in positions]
            return torch.from_numpy(np.stack(crops)).long()

        try:
            return stream(0) if batch.mask is None else cutmix(stream(0), stream(1), batch.mask[-count:, 0])
        except UserError as error:
            logger.warning(f"iteration {iteration + 1}: pseudo labels are not compared with withheld labels: {error}")
            return None

    def compare(self, iteration: int, teaching: Teaching, truth: Tensor, writer: SummaryWriter) -> None:
        """Accuracy, mIoU and IoU per class of the pseudo labels against withheld labels."""
        candidates, pseudo = {}, teaching.pseudo
        truth = truth.to(next(iter(teaching.predictions.values())).labels.device)
        known = (truth != IGNORE_INDEX).sum()
        if pseudo is not None:
            sure = pseudo.intersection != IGNORE_INDEX
            candidates = {
                "intersection": (truth.where(sure, IGNORE_INDEX), pseudo.intersection.where(sure, 0)),
                "union": (truth, pseudo.union),
            }
        candidates |= {
            f"branch_{branch}": (truth, predictions.labels) for branch, predictions in teaching.predictions.items()
        }
        metrics, parts = {"iteration": iteration}, []
        for name, (target, labels) in candidates.items():
            confusion = confusion_matrix(target, labels, self.C.num_classes)
            share = (confusion.sum() / known).item()
            iou = class_iou(confusion)
            accuracy, miou = pixel_accuracy(confusion).item(), iou.nanmean().item()
            metrics |= {f"{name}_share": share, f"{name}_accuracy": accuracy, f"{name}_miou": miou}
            metrics |= {f"{name}_iou/{c}": value for c, value in zip(self.classes.names, iou.tolist(), strict=True)}
            parts.append(f"{name} accuracy {percent(accuracy)} mIoU {percent(miou)} ({100 * share:.0f} %)")
        for name, value in metrics.items():
            if name != "iteration" and value == value:  # NaN if neither the labels nor the truth have the class
                writer.add_scalar(f"truth/{name}", value, iteration)
        file = Path(self.C.log_dir) / TRUTH
        with self.best_effort(file):
            append_metrics(file, metrics, self.run)
        logger.info(f"iteration {iteration + 1} against withheld labels: {'; '.join(parts)}")


def check_labels(dataset: TrainSet) -> None:
    """Raise UserError unless the unlabelled images have labels to compare with."""
    for sample in dataset.unlabeled:
        if sample.label is None or not sample.label.is_file():
            raise UserError(
                f"C.diagnose compares pseudo labels with withheld ones, but {sample.image} has no label "
                f"({sample.label or 'the list names none'}); switch it off (-o diagnose=false)"
            )


def draw_strip(batch: TrainBatch, teaching: Teaching, classes: Classes, truth: Tensor | None = None) -> np.ndarray:
    """The first images of a batch, one row per image, with captions and a legend below: RGB (H, W, 3) uint8."""
    mixed = batch.unlabeled_0
    if batch.mask is not None:
        mixed = cutmix(batch.unlabeled_0, batch.unlabeled_1, batch.mask)
    pictures = {"image": batch.unlabeled_0, "CutMix": mixed}
    labels = {f"branch {branch}": predictions.labels for branch, predictions in teaching.predictions.items()}
    if (pseudo := teaching.pseudo) is not None:
        sure = pseudo.intersection != IGNORE_INDEX
        labels |= {"intersection": pseudo.intersection, "union": pseudo.union}
        weights = {"weight, intersection": pseudo.weight_intersection * sure, "weight, union": pseudo.weight_union}
    else:  # every pixel has the same weight
        weights = {
            f"confidence {branch}": predictions.confidence for branch, predictions in teaching.predictions.items()
        }
    if truth is not None:
        labels["withheld label"] = truth
    rows = []
    for i in range(min(ROWS, len(mixed))):
        tiles = {name: tile(images[i].permute(1, 2, 0).cpu().numpy(), True) for name, images in pictures.items()}
        tiles |= {name: tile(colour(maps[i].cpu().numpy(), classes.palette)) for name, maps in labels.items()}
        tiles |= {name: tile(heat(maps[i].float().cpu().numpy())) for name, maps in weights.items()}
        rows.append(strip([caption(picture, name) if i == 0 else picture for name, picture in tiles.items()]))
    return stack([*rows, legend([*classes.names, "ignored"], [*classes.palette, IGNORED_COLOUR], rows[0].shape[1])])


def tile(picture: np.ndarray, smooth: bool = False) -> np.ndarray:
    """An RGB picture (H, W, 3) uint8, resized to the height of a strip's row."""
    height, width = picture.shape[:2]
    size = (max(round(width * TILE_HEIGHT / height), 1), TILE_HEIGHT)
    kind = (cv2.INTER_AREA if height > TILE_HEIGHT else cv2.INTER_LINEAR) if smooth else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=kind)


def add_histogram(writer: SummaryWriter, name: str, values: Tensor, iteration: int) -> None:
    """Write a histogram over [0, 1] of values on any device; only its counts and sums are copied to the host."""
    values = values.float().flatten()
    counts = torch.histc(values, BINS, 0, 1).tolist()
    total, squares = exact(values).sum().item(), exact(values).square().sum().item()
    limits = [(i + 1) / BINS for i in range(BINS)]
    writer.add_histogram_raw(
        name, values.min().item(), values.max().item(), len(values), total, squares, limits, counts, iteration
    )
