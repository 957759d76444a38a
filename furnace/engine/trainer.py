"""Training: data, step, log, snapshot, from settings to `epoch-last.pth`."""

from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from furnace.datasets.dataset import TrainBatch
from furnace.datasets.loaders import build_train_loader, build_train_set
from furnace.engine.checkpoint import (
    Snapshot,
    copy_as_last,
    is_snapshot_epoch,
    list_epochs,
    load_network,
    load_snapshot,
    save_snapshot,
)
from furnace.engine.distributed import rank, whole_batch, world_size
from furnace.engine.learner import Learner
from furnace.engine.monitor import Monitor, logger, open_log
from furnace.engine.recipe import recipe_table, write_record
from furnace.methods.build import METHODS, build_method, build_network
from furnace.seg_opr.normalize import Normalize
from furnace.utils.config import Settings
from furnace.utils.errors import UserError


class Trainer:
    """Trains the experiment that `C` describes.

    Args:
        C: checked settings.
        device: where this process computes.
        resume: snapshot to continue from.
        overwrite: start anew in a folder that already holds snapshots.
        console: for the table and the progress bar.

    Raises:
        UserError: data or weights are missing or wrong, or snapshots of another run would be overwritten.
    """

    def __init__(
        self,
        C: Settings,
        device: torch.device,
        resume: str | None = None,
        overwrite: bool = False,
        console: Console | None = None,
    ):
        self.C, self.device = C, device
        self.console = console or Console(quiet=rank() > 0)
        present = list_epochs(C.snapshot_dir)
        if present and not (resume or overwrite):
            raise UserError(
                f"{C.snapshot_dir}: holds snapshots up to epoch {max(present)}; continue them (-c PATH), "
                "replace them (--overwrite), or choose another folder (-o log_dir=...)"
            )
        snapshot = load_snapshot(resume) if resume else None
        torch.manual_seed(C.seed)
        self.dataset = build_train_set(C, METHODS[C.method].unlabeled)
        check_shares(C)
        self.memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.network = build_network(C, pretrained=snapshot is None).to(device, memory_format=self.memory_format)
        if C.sync_bn and device.type == "cuda" and world_size() > 1:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        self.learner = Learner(
            self.network,
            build_method(C, whole_batch()).to(device),
            lr=C.lr,
            lr_power=C.lr_power,
            momentum=C.momentum,
            weight_decay=C.weight_decay,
            total_iterations=C.nepochs * C.niters_per_epoch,
            amp=chosen(C.amp, device, "bf16"),
            accumulate=C.accumulate,
            compiled=chosen(C.compile, device, "on") == "on",
        )
        self.normalize = Normalize(C.image_mean, C.image_std).to(device)
        self.start_iteration = self._continue_from(snapshot, resume) if snapshot else 0

    def fit(self) -> None:
        """Train to the end of the last epoch."""
        C = self.C
        if rank() == 0:
            open_log(C.log_dir, "log", self.console)
            self.console.print(recipe_table(C, self.dataset, self.network, self.device, self.start_iteration))
            write_record(C, self.dataset, self.device)

        total = C.nepochs * C.niters_per_epoch
        pin = self.device.type == "cuda"
        loader = build_train_loader(C, self.dataset, self.start_iteration, rank(), world_size(), pin)
        with self._monitor(total) as monitor:
            for iteration, batch in enumerate(loader, self.start_iteration):
                outcome = self.learner.step(self.prepare(batch), iteration)
                monitor.step(iteration, self.learner.learning_rate(iteration), outcome.scalars)

                epoch, step = divmod(iteration, C.niters_per_epoch)
                if step == C.niters_per_epoch - 1 and is_snapshot_epoch(epoch, C.nepochs, C.snapshot_iter):
                    self.save(epoch, iteration + 1)
        logger.info(f"done: {Path(C.snapshot_dir) / 'epoch-last.pth'}; next: python eval.py -e last")

    def prepare(self, batch: TrainBatch) -> TrainBatch:
        """A loader's batch on the device, images normalised, labels int64."""
        batch = batch.to(self.device)
        images = {
            name: self.normalize(value).contiguous(memory_format=self.memory_format)
            for name in ("images", "unlabeled_0", "unlabeled_1")
            if (value := getattr(batch, name)) is not None
        }
        return TrainBatch(labels=batch.labels.long(), mask=batch.mask, **images)

    def save(self, epoch: int, iteration: int) -> None:
        """Write `epoch-N.pth`, and `epoch-last.pth` as its copy."""
        if rank() > 0:
            return
        path = Path(self.C.snapshot_dir) / f"epoch-{epoch}.pth"
        optimizers = [optimizer.state_dict() for optimizer in self.learner.optimizers]
        settings = self.C.model_dump()
        save_snapshot(path, Snapshot(self.network.state_dict(), optimizers, epoch, iteration, settings))
        copy_as_last(path)
        logger.info(f"saved {path}")

    def _continue_from(self, snapshot: Snapshot, path: str) -> int:
        """Take over a snapshot's state; returns the iteration to go on with."""
        load_network(self.network, snapshot, path)
        if len(snapshot.optimizers) != len(self.learner.optimizers):
            raise UserError(f"{path}: holds weights but not the optimizers' states; it can be evaluated, not continued")
        for optimizer, state in zip(self.learner.optimizers, snapshot.optimizers, strict=True):
            optimizer.load_state_dict(state)
        iteration = snapshot.iteration
        if iteration is None:
            iteration = (snapshot.epoch + 1) * self.C.niters_per_epoch
        if iteration >= self.C.nepochs * self.C.niters_per_epoch:
            raise UserError(f"{path}: the run of {self.C.nepochs} epochs is finished; raise it with -o nepochs=N")
        return iteration

    def _monitor(self, total: int) -> Monitor:
        C = self.C
        # A CPU computes in step with us, so that figures cost nothing; on a GPU each look at them waits.
        record_iter = 1 if self.device.type == "cpu" else C.record_info_iter
        return Monitor(
            C.log_dir,
            total=total,
            start=self.start_iteration,
            niters_per_epoch=C.niters_per_epoch,
            record_iter=record_iter,
            display_iter=C.display_iter,
            console=self.console,
            whole=whole_batch(),
        )


def chosen(setting: str, device: torch.device, on_gpu: str) -> str:
    """A setting of C.amp or C.compile; "auto" is `on_gpu` there, and off on a CPU."""
    return setting if setting != "auto" else on_gpu if device.type == "cuda" else "off"


def check_shares(C: Settings) -> None:
    """Raise UserError unless the batch falls into equal shares, of two images at least for BatchNorm."""
    shares = world_size() * C.accumulate
    if C.batch_size % shares or C.batch_size // shares < 2:
        raise UserError(
            f"C.batch_size = {C.batch_size} must give {world_size()} process(es) x C.accumulate = {C.accumulate} "
            f"equal shares of two images at least; {2 * shares} would do"
        )
