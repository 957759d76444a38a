"""Weights & Biases, https://wandb.ai: receives TensorBoard's records, too, if `C.wandb` names a project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from furnace.engine.distributed import rank
from furnace.utils.errors import UserError
from furnace.utils.files import explained
from furnace.utils.settings import Settings


def check_wandb(C: Settings) -> None:
    """Raise UserError if `C.wandb` names a project and the package is missing (checked without import)."""
    if C.wandb is not None and find_spec("wandb") is None:
        raise UserError(
            f"C.wandb = {C.wandb}: the package wandb is not installed; run 'pip install wandb', or set C.wandb = None"
        )


def begin_tracking(C: Settings, run: str, warn: Callable[[str], None]) -> WandbWriter | None:
    """The writer of a run in the first process if `C.wandb` is set, else None; arguments as for `WandbWriter`."""
    return None if C.wandb is None or rank() > 0 else WandbWriter(C, run, warn)


class WandbWriter:
    """A writer with TensorBoard's methods that logs the values of one iteration as one record.

    A continued run keeps its name `run`, so that wandb continues its record. The environment variables of wandb apply:
    WANDB_MODE=offline keeps the records in the log folder, and `wandb sync` uploads them later.

    Args:
        C: checked settings; `wandb` names the project.
        run: the run's name.
        warn: called with one line if records can't be logged; training continues without them.

    Raises:
        UserError: wandb can't start, as without a login.
    """

    def __init__(self, C: Settings, run: str, warn: Callable[[str], None]):
        import wandb

        self.wandb, self.warn = wandb, warn
        self.iteration, self.pending = -1, {}
        with explained(Path(C.log_dir)):
            Path(C.log_dir).mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=C.wandb,
                group=C.this_dir,
                name=f"{C.method} 1/{C.labeled_ratio} seed {C.seed}",
                id=run,
                resume="allow",
                dir=C.log_dir,
                config=C.model_dump(mode="json"),
                settings=wandb.Settings(console="off", silent=True),  # only we write to the terminal
            )
        except wandb.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"C.wandb = {C.wandb}: wandb can't start ({reason}); run 'wandb login', or set WANDB_MODE=offline"
            ) from error
        # Replaces wandb's own step, which could not go back in a continued run.
        self.run.define_metric("*", step_metric="iteration")

    @property
    def place(self) -> str:
        """Folder or address of the records."""
        return f"{Path(self.run.dir).parent}, for wandb sync" if self.run.offline else str(self.run.url)

    def add_scalar(self, tag: str, value: float, iteration: int) -> None:
        self._add(tag, value, iteration)

    def add_image(self, tag: str, picture: np.ndarray, iteration: int, dataformats: str = "HWC") -> None:
        """Add a picture (H, W, 3) uint8."""
        self._add(tag, self.wandb.Image(picture), iteration)

    def add_histogram_raw(self, tag: str, low: float, high: float, *sums: Any) -> None:
        """Add a histogram of values from 0 on; `sums` as in tensorboardX."""
        *_, limits, counts, iteration = sums
        self._add(tag, self.wandb.Histogram(np_histogram=(counts, [0.0, *limits])), iteration)

    def flush(self) -> None:
        """Log the values of the last iteration; on failure, warn and stop logging."""
        if self.pending and self.run is not None:
            try:
                self.run.log({**self.pending, "iteration": self.iteration})
            except (self.wandb.Error, OSError) as error:
                self.warn(f"wandb: can't log ({str(error).splitlines()[0]}); the run continues without it")
                self.run = None
        self.pending = {}

    def close(self, failed: bool = False) -> None:
        """Log the remaining values and end the record, as failed or not; only the first call counts."""
        self.flush()
        if self.run is not None:
            self.run.finish(exit_code=int(failed))
        self.run = None

    def _add(self, tag: str, value: Any, iteration: int) -> None:
        if iteration != self.iteration:
            self.flush()
            self.iteration = iteration
        self.pending[tag] = value


class Writers:
    """Several writers as one: each call goes to all."""

    def __init__(self, writers: Sequence[Any]):
        self.writers = writers

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*words: Any, **named: Any) -> None:
            for writer in self.writers:
                getattr(writer, name)(*words, **named)

        return call
