"""Show and record a run: terminal, text log, TensorBoard and progress bar."""

import logging
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.logging import RichHandler
from torch import Tensor

from furnace.engine.best_effort import BestEffort, tensorboard_writer
from furnace.engine.distributed import rank
from furnace.engine.record import TRAINING_METRICS, append_metrics
from furnace.engine.tracking import WandbWriter, Writers
from furnace.seg_opr.confusion import exact
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.errors import Stopped
from furnace.utils.files import explained
from furnace.utils.progress import ProgressBar, beside_bars

GIB = 2**30
Batch = TypeVar("Batch")
logger = logging.getLogger("furnace")


class LogFile(logging.FileHandler):
    """A text log that prints one warning on the terminal if it can't be written, not a traceback per line."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8")
        self.best_effort = BestEffort(logger.warning)  # the warning fails here, too, but reaches the terminal

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.best_effort.tell(Path(self.baseFilename), error)
        else:
            super().handleError(record)


class TerminalLog(RichHandler):
    """Log lines on the terminal, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with beside_bars(self.console):
            super().emit(record)


def open_log(folder: str | Path, kind: str, console: Console) -> Path:
    """Send log lines to the terminal and to `folder`/`kind`_TIME.log; `kind`_last.log links to it.

    Raises UserError if the folder can't be made or written.
    """
    folder = Path(folder)
    path = folder / f"{kind}_{datetime.now():%Y_%m_%d_%H_%M_%S}.log"
    with explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        to_file = LogFile(path)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    to_terminal = TerminalLog(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(to_file)
    logger.addHandler(to_terminal)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with suppress(OSError):  # there are disks without symbolic links
        link = folder / f"{kind}_last.log"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
    return path


class Monitor:
    """Show and record the progress of training; wait for the device only when a record is due.

    Args:
        folder: receives TensorBoard records in `tb`, and the same metrics in `figures.jsonl`.
        total, start: number of iterations of the whole run, and the first iteration from now.
        niters_per_epoch: for the epoch in the bar.
        record_iter, display_iter: iterations between TensorBoard records and between lines of the text log.
        console: for the progress bar.
        whole: averages the metrics over the processes; only the first shows and writes them.
        run: name of the run, stored with the metrics.
        tracker: receives TensorBoard's records, too.
        opening: text of the bar until the first iteration is done; by default the epoch, as later.

    `note` stands after the epoch in the bar.

    Use it as a context manager: take the batches from `timed`, and call `record` after every iteration.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        total: int,
        start: int,
        niters_per_epoch: int,
        record_iter: int,
        display_iter: int,
        console: Console,
        whole: WholeBatch = ALONE,
        run: str = "",
        tracker: WandbWriter | None = None,
        opening: str = "",
    ):
        self.run, self.tracker, self.note = run, tracker, ""
        self.whole, self.first = whole, rank() == 0
        self.niters_per_epoch, self.total = niters_per_epoch, total
        self.record_iter, self.display_iter = record_iter, display_iter
        self.bar = ProgressBar(opening or f"epoch {start // niters_per_epoch}", total, console, start, unit="it")
        # A killed run repeats the iterations after its last save: TensorBoard then shows the new records.
        self.best_effort = BestEffort(logger.warning)
        tb = Path(folder) / "tb"
        writer = tensorboard_writer(tb, self.best_effort, write_to_disk=self.first, purge_step=start or None)
        self.writer = Writers([writer, tracker]) if tracker else writer
        self.metrics_file = Path(folder) / TRAINING_METRICS
        self.sums: dict[str, Tensor] = {}  # (2,): sum of the finite values, and their number
        self.count = 0
        self.waited = 0.0
        self.since = time.perf_counter()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.bar.close()
        if self.tracker:
            self.tracker.close(failed=kind is not None and not issubclass(kind, Stopped))
        self.writer.close()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure the time spent waiting for them."""
        begin = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - begin
            yield batch
            begin = time.perf_counter()

    def record(self, iteration: int, lr: float, scalars: dict[str, Tensor]) -> None:
        """Add the scalars () of an iteration, on any device; the means ignore values that are not finite."""
        for name, value in scalars.items():
            pair = torch.stack([exact(value).nan_to_num(0, 0, 0), exact(torch.isfinite(value))])
            self.sums[name] = self.sums.get(name, 0) + pair
        self.count += 1
        done = iteration + 1
        self.bar.set_description_str(f"epoch {iteration // self.niters_per_epoch}{self.note}", refresh=False)
        if done % self.record_iter == 0 or done == self.total:
            self._report(iteration, lr)
        self.bar.advance_to(done)

    def _report(self, iteration: int, lr: float) -> None:
        names = list(self.sums)
        sums, counts = self.whole.total(torch.stack([self.sums[n] for n in names])).unbind(1)
        means = dict(zip(names, (sums / counts).tolist(), strict=True))
        now = time.perf_counter()
        costs = {
            "step_seconds": (now - self.since) / self.count,
            "data_seconds": self.waited / self.count,
            "memory_gib": peak_memory() / GIB,
        }
        self.sums, self.count, self.since, self.waited = {}, 0, now, 0.0

        shown = " ".join(f"{name} {value:.3f}" for name, value in means.items()) + f" lr {lr:.2e}"
        self.bar.set_postfix_str(shown, refresh=False)
        for name, value in {**means, "lr": lr}.items():
            self.writer.add_scalar(f"train/{name}", value, iteration)
        for name, value in costs.items():
            self.writer.add_scalar(f"cost/{name}", value, iteration)
        if self.first:
            with self.best_effort(self.metrics_file):
                append_metrics(self.metrics_file, {"iteration": iteration, "lr": lr, **means, **costs}, self.run)
        done = iteration + 1
        if done % self.display_iter < self.record_iter or done == self.total:
            epoch = iteration // self.niters_per_epoch
            logger.info(f"epoch {epoch} iteration {done}/{self.total} {shown} step {costs['step_seconds']:.3f} s")


def peak_memory() -> int:
    """Peak memory of this process in bytes: GPU memory if it uses a GPU, else main memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
