"""Training: data, step, log, snapshot, with handling of interruptions and faults."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from furnace.base_model.network import synchronized
from furnace.datasets.batch import TrainBatch
from furnace.datasets.catalog import build_classes
from furnace.datasets.loaders import build_preparation, build_train_loader, no_workers_left
from furnace.datasets.randomness import Draws, Purpose
from furnace.engine.background_compilation import BackgroundCompilation
from furnace.engine.compilation import BACKGROUND, OFF, chosen_compile
from furnace.engine.continuing import Saver, restore
from furnace.engine.diagnostics import Diagnostics
from furnace.engine.distributed import from_first, rank, whole_batch, world_size
from furnace.engine.faults import SkippedImages, explain_training, files_being_read, not_finite
from furnace.engine.guard import Fault
from furnace.engine.learner import build_learner
from furnace.engine.monitor import Monitor, logger, open_log
from furnace.engine.numerics import memory_format
from furnace.engine.preconditions import (
    check_alike,
    check_classes,
    check_files,
    check_lists,
    check_settings,
    check_shares,
)
from furnace.engine.recipe import recipe_table
from furnace.engine.record import write_record
from furnace.engine.signals import StopSignals
from furnace.engine.snapshot_folder import AUTOSAVE, list_snapshots
from furnace.engine.snapshots import Snapshot, is_snapshot_epoch
from furnace.engine.starting import check_data, check_unused, choose_together, identify
from furnace.engine.tracking import WandbWriter, begin_tracking, check_wandb
from furnace.engine.warm_start import begin_network
from furnace.methods.build import build_data, described_method
from furnace.utils.errors import SIGNAL_BASE, Stopped, UserError
from furnace.utils.locks import locked
from furnace.utils.settings import Settings
from furnace.utils.stopping import SAVING
from furnace.utils.terminal import open_console


class Trainer:
    """Train the experiment that `C` describes.

    Args:
        C: checked settings.
        device: of this process.
        resume: snapshot to continue from, or "auto" for the latest undamaged one in `C.snapshot_dir`, if any.
        overwrite: start from the beginning in a folder with snapshots, and remove these.
        console: for the table and the progress bar.

    Raises:
        UserError: data, weights or a package are missing or wrong, or snapshots of another run would be overwritten.
    """

    def __init__(
        self,
        C: Settings,
        device: torch.device,
        resume: str | None = None,
        overwrite: bool = False,
        console: Console | None = None,
    ):
        check_wandb(C)
        check_settings(C)
        self.C, self.device, self.overwrite = C, device, overwrite
        self.console = console or open_console(quiet=rank() > 0)
        found, own, self.notes = choose_together(C, resume, overwrite, device)
        self.fresh = not own
        self.branched = found is not None and found.path == resume
        torch.manual_seed(C.seed)
        method = described_method(C)
        self.dataset = build_data(C)
        check_shares(C, device=device)
        check_lists(C, self.dataset, device)
        self.identity = identify(C, self.dataset, found, own)
        if found:
            self.notes += check_data(found, self.identity["data"], resume)
        self.diagnostics = Diagnostics(C, self.dataset, self.identity["run"])
        network, start = begin_network(C, method, found)
        if C.warm_start and not found:
            self.notes.append(network.weights_report)
        self.identity |= start
        self.network = network.to(device, memory_format=memory_format(device))
        if C.sync_bn and device.type == "cuda" and world_size() > 1:
            self.network = synchronized(self.network)
        self.total = C.total_iterations
        self.compile = chosen_compile(C, device)
        self.learner = build_learner(C, self.network, compiled=self.compile not in (OFF, BACKGROUND))
        self.identity["precision"] = self.learner.amp
        check_alike({f"precision (C.amp = {C.amp})": self.learner.amp})
        views = method.labeled_view, method.teacher_view, method.students
        self.preparation = build_preparation(C, *views, device, memory_format(device))
        # Iterations done, and the number of them that were skipped because they were not finite.
        self.iteration, self.skipped = 0, 0
        if found:
            self.iteration, self.skipped, notes = restore(self.learner, found, C, refuse_finished=self.branched)
            self.notes += notes
        self.start_iteration = self.iteration
        self.saver = Saver(C, self._capture)
        self.skipped_images = SkippedImages()
        # On a CPU reading the losses costs nothing; on a GPU each read waits for the device.
        self.check_iter = 1 if device.type == "cpu" else C.record_info_iter

    def fit(self) -> None:
        """Train to the end of the last epoch.

        Raises:
            Stopped: a signal asked for it; the state is saved.
            UserError: a fault; the state before it is saved, if it is sound. Or another run writes into the same
                folders.
        """
        if self.fresh:  # not in a dry run, which has findings of all files instead of the first error
            self.notes += from_first(lambda: check_files(self.C, self.dataset))
            self.notes += from_first(lambda: check_classes(self.C, self.dataset))
        folders = (self.C.log_dir, self.C.snapshot_dir) if rank() == 0 else ()
        with ExitStack() as stack:
            stack.enter_context(locked(*folders, warn=self.notes.append))
            if rank() == 0 and self.fresh and not self.overwrite:
                check_unused(self.C.snapshot_dir)  # again: another run may have saved since this one started
            self._fit()

    def _fit(self) -> None:
        C = self.C
        if self.iteration >= self.total:  # killed after its last save, or started again
            self._begin()
            self.saver.finish(self.iteration // C.niters_per_epoch - 1)
            return
        tracker = begin_tracking(C, self.identity["run"], logger.warning)  # may fail: before an earlier run is removed
        pin = self.device.type == "cuda"
        loader = build_train_loader(C, self.dataset, self.start_iteration, rank(), world_size(), pin)
        self._begin()
        if tracker:
            logger.info(f"Weights & Biases: {tracker.place}")
        signals = StopSignals(lambda: files_being_read(self.dataset))
        with (
            signals,
            self._monitor(tracker) as monitor,
            no_workers_left(),
            self._saved_after_faults(signals),
            BackgroundCompilation(self.learner, monitor, self.compile == BACKGROUND) as compilation,
        ):
            batches = iter(loader)
            signals.watch()
            for batch in monitor.timed(signals.awaited(batches)):
                self._train(batch, monitor, compilation)
                if self.iteration < self.total and (signum := signals.requested()):
                    self._answer(signum)
        self.skipped_images.report()
        self.saver.finish(C.nepochs - 1)
        logger.info(f"done: {Path(C.snapshot_dir) / 'epoch-last.pth'}")

    def _begin(self) -> None:
        """Start the log, print notes and table, prepare the folder of snapshots, and write the record."""
        C = self.C
        if rank() > 0:
            return
        open_log(C.log_dir, "log", self.console)
        for note in self.notes:
            logger.warning(note)
        self.console.print(recipe_table(C, self.dataset, self.network, self.device, self.start_iteration))
        if self.fresh and list_snapshots(C.snapshot_dir):
            self.dataset[0, 0]  # may fail: an earlier run is removed only if images can be read
        self.saver.begin(self.fresh, self.overwrite, self.iteration if self.branched else None)
        write_record(C, self.identity, self.device, continues=not self.fresh)

    def _train(self, batch: TrainBatch, monitor: Monitor, compilation: BackgroundCompilation) -> None:
        """Run one iteration, then record and save if due."""
        C, iteration = self.C, self.iteration
        prepared = self.prepare(batch)
        # Dropout and stochastic depth of networks use PyTorch's own generators.
        torch.manual_seed(int(prepared.draws.stream(Purpose.NETWORK).integers(2**63)))
        output = compilation.step(prepared, iteration)
        self.skipped_images.note(batch.skipped)
        self.iteration += 1
        epoch, step = divmod(iteration, C.niters_per_epoch)
        is_due = step == C.niters_per_epoch - 1 and is_snapshot_epoch(epoch, C.nepochs, C.snapshot_iter)
        # Values are recorded and saved only after the check that they are finite.
        known = is_due or self.iteration % self.check_iter == 0 or self.iteration == self.total
        skipped = self._check_finite() if known else []
        if not skipped or self.check_iter > 1:
            monitor.record(iteration, self.learner.learning_rate(iteration), output.scalars)
            self.diagnostics.record(iteration, batch, output, monitor.writer)
        if is_due:
            self.saver.save_epoch(epoch)
        elif known and self.saver.is_due():
            self.saver.try_state()

    def prepare(self, batch: TrainBatch) -> TrainBatch:
        """Prepare the loader's batch of this iteration for the networks."""
        first = rank() * self.C.batch_size // world_size()
        return self.preparation(batch, Draws(self.C.seed, self.iteration, first))

    def _capture(self) -> Snapshot:
        C = self.C
        classes = build_classes(C)
        return Snapshot(
            model=self.network.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.learner.optimizers],
            epoch=self.iteration // C.niters_per_epoch - 1,
            iteration=self.iteration,
            settings=C.model_dump(mode="json"),
            scaler=self.learner.scale.state_dict(),
            skipped=self.skipped,
            classes={"names": list(classes.names), "palette": [list(colour) for colour in classes.palette]},
            identity=self.identity,
        )

    def _answer(self, signum: int) -> None:
        """Save; then stop, unless the signal only asks to save.

        Raises:
            Stopped: with the signal's status.
        """
        self._check_finite()
        if signum == SAVING:
            self.saver.try_state()
            return
        path = self.saver.save_state()
        self.skipped_images.report()
        name = signal.Signals(signum).name
        raise Stopped(
            f"{name} after iteration {self.iteration} of {self.total}; saved {path}; the same command with -c auto "
            "continues from there",
            SIGNAL_BASE + signum,
        )

    @contextmanager
    def _saved_after_faults(self, signals: StopSignals) -> Iterator[None]:
        """If an exception ends the loop, save the state if it is sound, and explain the exception."""
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            signals.answered = True  # by the save that starts now, which may take long
            self._rescue()
            if signals.received and not isinstance(error, UserError):
                # The same signal ended a loader or another process first.
                status = SIGNAL_BASE + signals.received
                raise Stopped(
                    f"after iteration {self.iteration}; -c auto continues from the last save", status
                ) from error
            explained = explain_training(error, self.C, self.dataset, self.iteration)
            if explained is None:
                raise
            raise explained from error

    def _rescue(self) -> None:
        """Save after a fault, unless it interrupted an update of the networks."""
        try:
            faults = self.learner.guard.check() if self.C.on_nan == "stop" else []
            if faults:  # not read before this fault; the networks have not changed since
                self.iteration = faults[0].iteration
            if self.learner.intact and self.iteration:  # before the first iteration there is nothing to save
                self.saver.try_state()
            self.skipped_images.report(together=False)  # other processes may have ended
        except RuntimeError as error:  # nothing can be read from a failed GPU
            logger.warning(f"no autosave: {str(error).splitlines()[0]}")

    def _check_finite(self) -> list[Fault]:
        """Check for iterations that were not finite, in all processes together; return those that were skipped.

        On a GPU this happens when a record is due, some iterations late. Nothing is lost: if `C.on_nan` is "stop", the
        networks have not changed since the first bad iteration (see `Guard`), and the state before it is saved.

        Raises:
            UserError: `C.on_nan` is "stop", or too many iterations were skipped.
        """
        C = self.C
        faults = self.learner.guard.check()
        for fault in faults:
            if C.on_nan == "stop":
                self.iteration = fault.iteration
                kept = f"the state before it is saved as {AUTOSAVE}; " if self.iteration else ""
                raise UserError(
                    f"{not_finite(fault, C, self.dataset)}; {kept}check these files, then use -c auto with "
                    "-o on_nan=skip, a lower -o lr=... or -o amp=off"
                )
            self.skipped += 1
            if rank() == 0:  # the same in all processes
                logger.warning(f"skipped: {not_finite(fault, C, self.dataset)}")
            if self.skipped > C.max_nan_skips:
                raise UserError(
                    f"{not_finite(fault, C, self.dataset)}; {self.skipped} iterations skipped, C.max_nan_skips = "
                    f"{C.max_nan_skips}; continue from an earlier snapshot with a lower -o lr=... or -o amp=off"
                )
        return faults

    def _monitor(self, tracker: WandbWriter | None) -> Monitor:
        C = self.C
        return Monitor(
            C.log_dir,
            total=self.total,
            start=self.start_iteration,
            niters_per_epoch=C.niters_per_epoch,
            record_iter=C.record_info_iter,
            display_iter=C.display_iter,
            console=self.console,
            whole=whole_batch(),
            run=self.identity["run"],
            tracker=tracker,
            opening="compiling" if self.learner.compiled else "",
        )
