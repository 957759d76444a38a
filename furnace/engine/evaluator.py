"""Evaluation: snapshots to scores, by sliding windows over the validation images."""

import json
import math
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from furnace.datasets.catalog import find_classes
from furnace.datasets.loaders import build_eval_loader
from furnace.datasets.splits import Sample, read_list
from furnace.engine.checkpoint import find_snapshots, load_network, load_snapshot
from furnace.engine.distributed import rank, whole_batch, world_size
from furnace.engine.monitor import logger, open_log, progress_bar
from furnace.methods.build import build_network
from furnace.seg_opr.confusion import Scores, confusion_matrix, scores
from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow
from furnace.utils.config import Settings
from furnace.utils.files import write_atomically
from furnace.utils.visualize import colour, save_labels, save_picture, strip

RESULTS = "results.json"
BRANCHES = ("1", "2", "both")


@dataclass(frozen=True)
class Result:
    """One snapshot's scores: `confusion` (K, K) int64 with targets in rows."""

    snapshot: str
    epoch: int
    branch: str
    images: int
    seconds: float
    confusion: Tensor
    scores: Scores


class Evaluator:
    """Evaluates snapshots of the experiment that `C` describes.

    Args:
        C: checked settings.
        device: where to compute.
        branch: "1" (conservative), "2" (progressive), or "both", the mean of their probabilities.
        save_to: folder for pictures of every image, or None.
        console: for tables and progress.

    Raises:
        UserError: the validation list or its folder is missing.
    """

    def __init__(
        self,
        C: Settings,
        device: torch.device,
        branch: str = "1",
        save_to: str | Path | None = None,
        console: Console | None = None,
    ):
        self.C, self.device, self.branch = C, device, branch
        self.save_to = Path(save_to) if save_to else None
        self.console = console or Console(quiet=rank() > 0)
        self.classes = find_classes(C.dataset_name, C.num_classes, C.class_names)
        self.samples: list[Sample] = read_list(C.eval_source, C.dataset_path, C.eval_folder)
        self.network = build_network(C, pretrained=False).to(device).eval()
        self.normalize = Normalize(C.image_mean, C.image_std).to(device)
        self.window = SlidingWindow(
            C.eval_crop_size, C.eval_stride_rate, C.eval_scale_array, C.eval_flip, C.eval_batch_size
        )

    def run(self, which: str) -> list[Result]:
        """Evaluate the snapshots that `which` names (see `find_snapshots`); print, log and save their scores."""
        paths = find_snapshots(which, self.C.snapshot_dir)
        if rank() == 0:
            open_log(self.C.log_dir, "val", self.console)
        results = []
        for path in paths:
            snapshot = load_snapshot(path)
            load_network(self.network, snapshot, path)
            result = self.evaluate(path, snapshot.epoch)
            results.append(result)
            if rank() == 0:
                self.report(result)
                self.save_results(results)
        if len(results) > 1:
            best = max(results, key=lambda result: result.scores.miou)
            logger.info(f"best of {len(results)}: {Path(best.snapshot).name}, mIoU {percent(best.scores.miou)}")
        return results

    @torch.inference_mode()
    def evaluate(self, path: Path, epoch: int) -> Result:
        """Scores of the network as it is, over the whole validation list; each process takes every n-th image."""
        K = self.C.num_classes
        confusion = torch.zeros(K, K, dtype=torch.int64, device=self.device)
        share = self.samples[rank() :: world_size()]
        begin = time.perf_counter()
        with progress_bar(self.console) as progress:
            task = progress.add_task(path.stem, total=len(share))
            images = ((image.numpy(), (name, image, label)) for name, image, label in build_eval_loader(self.C, share))
            for (name, image, label), image_scores in self.window.stream(images, self.window_scores, self.to_input):
                prediction = image_scores.argmax(0)
                confusion += confusion_matrix(label.to(self.device), prediction, K)
                if self.save_to:
                    self.save_pictures(path.stem, name, image.numpy(), label.numpy(), prediction)
                progress.advance(task)
        confusion = whole_batch().total(confusion)
        seconds = time.perf_counter() - begin
        return Result(str(path), epoch, self.branch, len(self.samples), seconds, confusion.cpu(), scores(confusion))

    def to_input(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, h, w) uint8 as the network takes them, on its device."""
        return self.normalize(pixels.to(self.device))

    def window_scores(self, windows: Tensor) -> Tensor:
        """Logits of one branch, or the mean probabilities of both."""
        if self.branch != "both":
            return self.network(windows, int(self.branch))
        return (self.network(windows, 1).softmax(1) + self.network(windows, 2).softmax(1)) / 2

    def save_pictures(self, snapshot: str, name: str, image: np.ndarray, label: np.ndarray, prediction: Tensor) -> None:
        """Strip image | prediction | ground truth, and the label map as a palette PNG."""
        labels = prediction.to(torch.uint8).cpu().numpy()
        palette = self.classes.palette
        picture = strip([image, colour(labels, palette), colour(label, palette)])
        save_picture(self.save_to / snapshot / "strip" / f"{name}.png", picture)
        save_labels(self.save_to / snapshot / "label" / f"{name}.png", labels, palette)

    def report(self, result: Result) -> None:
        """Print the table of one snapshot and log its figures."""
        found = result.scores
        table = Table(title=f"{Path(result.snapshot).name}, branch {result.branch}, {result.images} images")
        table.add_column("class")
        table.add_column("IoU", justify="right")
        table.add_column("accuracy", justify="right")
        for name, iou, accuracy in zip(self.classes.names, found.iou.tolist(), found.accuracy.tolist(), strict=True):
            table.add_row(name, percent(iou), percent(accuracy))
        self.console.print(table)
        per_class = ", ".join(f"{n} {percent(i)}" for n, i in zip(self.classes.names, found.iou.tolist(), strict=True))
        logger.info(
            f"{Path(result.snapshot).name} branch {result.branch}: mIoU {percent(found.miou)}, without background "
            f"{percent(found.miou_no_background)}, pixel accuracy {percent(found.pixel_accuracy)}, mean class accuracy "
            f"{percent(found.mean_accuracy)}; {result.images} images in {result.seconds:.1f} s"
        )
        logger.debug(per_class)

    def save_results(self, results: list[Result]) -> None:
        """Add the results to `results.json`; those of the same snapshot and branch are replaced."""
        path = Path(self.C.log_dir) / RESULTS
        entries = {(entry["snapshot"], entry["branch"]): entry for entry in read_results(path)}
        for result in results:
            entries[result.snapshot, result.branch] = self._entry(result)
        ordered = sorted(entries.values(), key=lambda entry: (entry["epoch"], entry["snapshot"], entry["branch"]))
        write_atomically(path, json.dumps(ordered, indent=1).encode())
        logger.info(f"results: {path}")

    def _entry(self, result: Result) -> dict:
        C = self.C
        found = {key: plain(value) for key, value in asdict(result.scores).items()}
        return {
            "snapshot": result.snapshot,
            "epoch": result.epoch,
            "branch": result.branch,
            "images": result.images,
            "eval_source": C.eval_source,
            "scales": C.eval_scale_array,
            "flip": C.eval_flip,
            "crop": C.eval_crop_size,
            "stride_rate": C.eval_stride_rate,
            "seconds": round(result.seconds, 2),
            "finished": datetime.now().isoformat(timespec="seconds"),
            "classes": list(self.classes.names),
            **found,
            "confusion": result.confusion.tolist(),
        }


def read_results(path: str | Path) -> list[dict]:
    """The entries of a `results.json`, none where there is no such file or it can't be read."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and {"snapshot", "branch", "epoch"} <= entry.keys()]


def plain(value: Tensor | float) -> list | float | None:
    """For JSON: tensors as lists, NaN as null."""
    if isinstance(value, Tensor):
        return [plain(item) for item in value.tolist()]
    return None if math.isnan(value) else value


def percent(share: float) -> str:
    """0.7374 as "73.74"; NaN as "-"."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
