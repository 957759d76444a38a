"""What a run writes into its folder of snapshots, and when."""

import time
from collections.abc import Callable
from pathlib import Path

from furnace.engine.checkpoint import Snapshot, read_progress, save_snapshot
from furnace.engine.distributed import rank
from furnace.engine.figures import REPORT, RESULTS, TRUTH
from furnace.engine.monitor import logger
from furnace.engine.snapshot_folder import AUTOSAVE, clear, copy_as_last, prune, sweep
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings

SECONDS = 60  # of a minute


class Saver:
    """Writes a run's state, in the first process only: the others have the same.

    Args:
        C: says where, how often and how many.
        capture: gives the state as it is.

    Each method that writes raises UserError where the disk is full or the folder can't be written.
    """

    def __init__(self, C: Settings, capture: Callable[[], Snapshot]):
        self.C, self.capture, self.folder = C, capture, Path(C.snapshot_dir)
        self.saved_at = time.monotonic()

    def begin(self, fresh: bool) -> None:
        """Remove what a killed run left unfinished, and, for a fresh run, the snapshots of an earlier one and their
        results: nothing should continue from them, or be compared with them, by mistake."""
        self.saved_at = time.monotonic()
        if fresh:
            if count := clear(self.folder):
                logger.info(f"--overwrite: removed {count} snapshots of an earlier run from {self.folder}")
            for told in (RESULTS, REPORT, TRUTH):  # of such snapshots, whether they were still there or not
                (Path(self.C.log_dir) / told).unlink(missing_ok=True)
        sweep(self.folder)

    def save_epoch(self, epoch: int) -> None:
        """Write `epoch-N.pth`, `epoch-last.pth` as its copy, and remove what `C.keep_snapshots` does not keep."""
        if rank() > 0:
            return
        path = self.folder / f"epoch-{epoch}.pth"
        save_snapshot(path, self.capture())
        copy_as_last(path)
        prune(self.folder, self.C.keep_snapshots)
        self.saved_at = time.monotonic()
        logger.info(f"saved {path}")

    def save_state(self) -> Path:
        """Write the autosave, at whatever iteration."""
        path = self.folder / AUTOSAVE
        if rank() == 0:
            snapshot = self.capture()
            save_snapshot(path, snapshot)
            self.saved_at = time.monotonic()
            logger.info(f"saved {path} at iteration {snapshot.iteration}")
        return path

    def is_due(self) -> bool:
        """Whether `C.autosave_minutes` have gone by since anything was saved."""
        minutes = self.C.autosave_minutes
        return bool(minutes) and time.monotonic() - self.saved_at > minutes * SECONDS

    def try_state(self) -> None:
        """Write the autosave; a full disk is no reason to end a run that can save later."""
        try:
            self.save_state()
        except UserError as error:
            self.saved_at = time.monotonic()
            logger.warning(f"no autosave: {error}")

    def finish(self, epoch: int) -> None:
        """Make the last `epoch`'s snapshot `epoch-last.pth`, and remove the autosave, of which it holds all.

        A snapshot of this number but another state, of a run with another C.niters_per_epoch or of more epochs, is
        none of this run's end: then everything stays as it is.
        """
        path, iteration = self.folder / f"epoch-{epoch}.pth", self.capture().iteration
        if rank() > 0:
            return
        if not path.is_file() and iteration == (epoch + 1) * self.C.niters_per_epoch:
            self.save_epoch(epoch)  # the disk was full when it was due: the autosave has made up for it
        if read_progress(path)[1] == iteration:
            copy_as_last(path)  # a kill may have come between the two
            (self.folder / AUTOSAVE).unlink(missing_ok=True)
