"""Evaluate snapshots: metrics on the evaluation images, by sliding windows."""

import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from furnace.datasets.inspection import repeated
from furnace.datasets.loaders import build_eval_loader
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import Sample, read_list
from furnace.engine.distributed import from_first, gather_objects, rank, whole_batch, world_size
from furnace.engine.monitor import logger, open_log
from furnace.engine.numerics import device_name
from furnace.engine.record import REPORT, RESULTS, commit, versions
from furnace.engine.snapshots import Snapshot
from furnace.inference.choice import choose_snapshots
from furnace.inference.examples import Example, choose_examples
from furnace.inference.report import Training, write_report
from furnace.inference.results import (
    Result,
    best_entry,
    best_of,
    epochs_table,
    identify,
    require_unchanged,
    result_entry,
    results_table,
    save_results,
    stamp,
    stands,
    summary,
)
from furnace.inference.segmenter import Segmenter, to_array
from furnace.seg_opr.confusion import count, exact
from furnace.seg_opr.metrics import MetricList, check_values
from furnace.utils.errors import UserError
from furnace.utils.files import explained
from furnace.utils.progress import ProgressBar
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console
from furnace.utils.visualize import colour, save_labels, save_picture, strip
from furnace.utils.wording import percent


class Evaluator:
    """Evaluate snapshots on the evaluation images of `C`.

    Args:
        C: checked settings.
        device: where to compute.
        branch: as in `Segmenter`.
        save_to: folder for pictures of every image, or None.
        console: for tables and progress.

    Raises:
        UserError: a metric is unknown, or the evaluation list or its folder is missing, or names an image twice.
    """

    def __init__(
        self,
        C: Settings,
        device: torch.device,
        branch: str | None = None,
        save_to: str | Path | None = None,
        console: Console | None = None,
    ):
        self.C, self.device = C, device
        self.save_to = Path(save_to) if save_to else None
        self.console = console or open_console(quiet=rank() > 0)
        self.metrics = MetricList(C.eval_metrics)
        self.samples: list[Sample] = read_list(C.eval_source, C.dataset_path, C.eval_folder)
        if again := repeated(self.samples):
            raise UserError(f"{C.eval_source}: names {again[0].image} again, which would count twice; remove the line")
        self.segmenter = Segmenter(C, device, branch)

    def run(self, which: str) -> list[Result]:
        """Evaluate the snapshots named by `which` (see `choose_snapshots`), and return their results.

        Print, log and save the scores, and write the report.
        """
        paths = from_first(lambda: choose_snapshots(self.C, which, self.segmenter.asked))
        if rank() == 0:
            open_log(self.C.log_dir, "val", self.console)
        results: list[Result] = []
        own: list[dict] = []
        for path in paths:
            snapshot, origin = self.load(path)
            results.append(self.evaluate(path, snapshot.epoch))
            own.append(result_entry(self.C, results[-1], self.segmenter.classes, origin))
            best = best_of(own, self.metrics)
            for result, entry in zip(results, own, strict=True):
                if entry is not best:
                    result.labels.clear()  # the report needs only the labels of the best
            if rank() == 0:
                entries = save_results(self.C, own)
                logger.info(summary(own[-1], self.metrics))
        if rank() == 0:
            self.console.print(results_table(best, self.metrics))
            if len(own) > 1:
                self.console.print(epochs_table(own, self.metrics))
                score = f"{self.metrics.mains[self.metrics.main]} {percent(best[self.metrics.main])}"
                logger.info(f"best of {len(own)}: {Path(best['snapshot']).name}, {score}")
            shown = best_entry(entries, best, self.metrics)
            self.report(entries, shown, results[own.index(best)], known=shown is best)
        return results

    def load(self, path: Path) -> tuple[Snapshot, dict]:
        """Load a snapshot in every process; return it with its origin (`identify`).

        Raises:
            UserError: as in `Segmenter.load`, or the file was replaced meanwhile, as training does with epoch-last.pth.
        """
        before = stamp(path)
        snapshot = self.segmenter.load(path)
        for note in self.segmenter.notes:
            logger.info(note)
        origin = from_first(lambda: identify(path, snapshot, self.samples, self.segmenter.amp))
        unchanged = gather_objects(before == origin["stamp"])
        from_first(lambda: require_unchanged(path, all(unchanged)))
        return snapshot, origin

    def report(self, entries: list[dict], shown: dict, result: Result, known: bool) -> None:
        """Write the report and log its path.

        Args:
            entries: all entries of `results.json`.
            shown: the entry to show in detail.
            result: of the best snapshot of this evaluation.
            known: True if this is the shown snapshot; then its labels are known.
        """
        path = Path(shown["snapshot"])
        require_unchanged(path, stands(shown))
        snapshot = self.segmenter.load(path)
        training = Training.of(self.C, self.segmenter.C, snapshot, path)
        origin = {"commit": commit() or "-", **versions(), "on": device_name(self.device)}
        examples = self.examples(shown, result.shows, result.labels if known else {})
        classes = self.segmenter.classes
        write_report(self.C, training, self.metrics, entries, shown, examples, classes, origin)
        folder = Path(self.C.log_dir)
        where = path.name if path.parent == Path(self.C.snapshot_dir).resolve() else path
        logger.info(f"results: {folder / RESULTS}; report on {where}: {folder / REPORT}")

    @torch.inference_mode()
    def evaluate(self, path: Path, epoch: int) -> Result:
        """Metrics of the loaded network on the evaluation list; each of n processes takes every n-th image."""
        C = self.segmenter.C  # the snapshot's settings
        metrics = self.metrics.build(C.num_classes, self.device)
        for metric in metrics:
            check_values(metric, C.num_classes)  # a fault of a user's metric is not found after hours of work
        per_image = exact(torch.zeros(len(self.samples), device=self.device))
        shows = exact(torch.zeros(len(self.samples), C.num_classes, device=self.device))
        share = range(rank(), len(self.samples), world_size())
        labels: dict[int, bytes] = {}
        begin = time.perf_counter()
        with ProgressBar(path.stem, len(share), self.console) as bar:
            loader = build_eval_loader(C, [self.samples[index] for index in share], world_size())
            images = ((image.numpy(), (name, image, label)) for name, image, label in loader)
            for index, ((name, image, label), found) in zip(share, self.segmenter.stream(images), strict=True):
                prediction, target = found.labels.long(), label.to(self.device).long()
                of_image = self.metrics.build(C.num_classes, self.device)
                for metric, alone in zip(metrics, of_image, strict=True):
                    alone.update(target, prediction)
                    metric.state += alone.state
                per_image[index] = of_image[0].compute()[self.metrics.main]
                shows[index] = count(target.clamp(max=C.num_classes).flatten(), C.num_classes + 1)[:-1] > 0
                if self.device.type == "cpu":  # a GPU predicts faster than a CPU compresses
                    labels[index] = zlib.compress(to_array(prediction).tobytes(), 1)
                if self.save_to:
                    self.save_pictures(path.stem, name, image.numpy(), label.numpy(), prediction)
                bar.update()
        values: dict[str, Tensor] = {}
        for metric in metrics:
            metric.state = whole_batch().total(metric.state).cpu()
            values |= metric.compute()
        for name, title in self.metrics.numbers.items():
            if values[name] < 0 or values[name] > 1:
                logger.warning(f"{title} ({name}) is {values[name]:g}; numbers of metrics lie in [0, 1]")
        per_image, shows = (whole_batch().total(of_images).cpu() for of_images in (per_image, shows))
        seconds = time.perf_counter() - begin
        names = [sample.name for sample in self.samples]
        return Result(str(path), epoch, self.segmenter.branch, seconds, values, names, per_image, shows > 0, labels)

    def examples(self, entry: dict, shows: Tensor, known: Mapping[int, bytes]) -> list[Example]:
        """Example images of an entry of `results.json`, worst first.

        Args:
            entry: of the loaded network.
            shows: as in `choose_examples`.
            known: labels as in `Result`; missing ones are predicted.
        """
        scores = [entry["per_image"].get(sample.name) for sample in self.samples]
        chosen = choose_examples(scores, shows)
        files = build_reader(self.segmenter.C)
        pairs = {i: files.pair(self.samples[i]) for i in chosen}
        missing = self.segmenter.stream((image, i) for i, (image, _) in pairs.items() if i not in known)
        labels = {i: to_array(found.labels) for i, found in missing}
        for i in chosen:
            if i in known:
                labels[i] = np.frombuffer(zlib.decompress(known[i]), np.uint8).reshape(pairs[i][1].shape)
        return [Example(self.samples[i].name, scores[i], *pairs[i], labels[i]) for i in chosen]

    def save_pictures(self, snapshot: str, name: str, image: np.ndarray, label: np.ndarray, prediction: Tensor) -> None:
        """Save a strip image | prediction | ground truth, and the label map as a palette PNG."""
        labels, palette = to_array(prediction), self.segmenter.classes.palette
        picture = strip([image, colour(labels, palette), colour(label, palette)])
        with explained(self.save_to):
            save_picture(self.save_to / snapshot / "strip" / f"{name}.png", picture)
            save_labels(self.save_to / snapshot / "label" / f"{name}.png", labels, palette)
