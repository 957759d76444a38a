"""Save a run's state and continue from it."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from furnace.engine.distributed import mark_begun, rank
from furnace.engine.learner import Learner
from furnace.engine.monitor import logger
from furnace.engine.snapshot_folder import AUTOSAVE, clear, copy_as_last, prune, sweep
from furnace.engine.snapshots import Snapshot, load_network, read_progress, save_snapshot
from furnace.engine.traces import clear_traces, move_traces, set_apart
from furnace.utils.checking import plain
from furnace.utils.errors import UserError
from furnace.utils.settings import COSTS, EVALUATION, PLACES, Settings
from furnace.utils.wording import counted

SECONDS = 60  # per minute
# Settings that affect neither the training data nor the trained weights.
IRRELEVANT = PLACES | COSTS | EVALUATION | {"snapshot_iter"}
GROUPS = dict.fromkeys(("params", "lr", "weight_decay", "lr_factor"))  # ours
OF_ONE_SHAPE = (torch.optim.SGD, torch.optim.AdamW)  # their state has the shape of the parameter, or is a number


class Saver:
    """Write a run's state, in the first process only: the others have the same state.

    Args:
        C: settings: folder, intervals and number of snapshots.
        capture: returns the current state.

    Each method that writes raises UserError if the disk is full or the folder can't be written.
    """

    def __init__(self, C: Settings, capture: Callable[[], Snapshot]):
        self.C, self.capture, self.folder = C, capture, Path(C.snapshot_dir)
        self.saved_at = time.monotonic()

    def begin(self, fresh: bool, overwrite: bool = False, branched_at: int | None = None) -> None:
        """Prepare the folders for this run, so that nothing continues from another run or is compared with it.

        Args:
            fresh: this is a new run: files of an earlier one are moved to another folder or, with `overwrite`, removed.
            branched_at: iteration to which a run goes back; its later files are moved to another folder.
        """
        self.saved_at = time.monotonic()
        if fresh and overwrite:
            if count := clear(self.folder):
                logger.info(f"--overwrite: removed {counted(count, 'snapshot')} of an earlier run from {self.folder}")
            clear_traces(self.C.log_dir)
        elif fresh and (earlier := move_traces(self.C.log_dir)):
            logger.info(f"results and records of an earlier run, whose snapshots are gone, are now in {earlier}")
        sweep(self.folder)
        if branched_at is not None:
            if apart := set_apart(self.C, branched_at):
                logger.info(f"the run goes back to iteration {branched_at}: its later files are now in {apart}")
            self.save_state()  # now the latest save
        mark_begun()

    def save_epoch(self, epoch: int) -> None:
        """Write `epoch-N.pth` and its copy `epoch-last.pth`; remove epochs beyond `C.keep_snapshots`."""
        if rank() > 0:
            return
        path = self.folder / f"epoch-{epoch}.pth"
        save_snapshot(path, self.capture())
        copy_as_last(path)
        prune(self.folder, self.C.keep_snapshots)
        self.saved_at = time.monotonic()
        logger.info(f"saved {path}")

    def save_state(self) -> Path:
        """Write the autosave, at any iteration; return its path."""
        path = self.folder / AUTOSAVE
        if rank() == 0:
            snapshot = self.capture()
            save_snapshot(path, snapshot)
            self.saved_at = time.monotonic()
            logger.info(f"saved {path} at iteration {snapshot.iteration}")
        return path

    def is_due(self) -> bool:
        """True if `C.autosave_minutes` have passed since the last save."""
        minutes = self.C.autosave_minutes
        return bool(minutes) and time.monotonic() - self.saved_at > minutes * SECONDS

    def try_state(self) -> None:
        """Write the autosave; if it fails, as on a full disk, log this and continue, as a later save may work."""
        try:
            self.save_state()
        except UserError as error:
            self.saved_at = time.monotonic()
            logger.warning(f"no autosave: {error}")

    def finish(self, epoch: int) -> None:
        """Copy the snapshot of the last `epoch` to `epoch-last.pth`, and remove the autosave, which has the same state.

        If that snapshot is from another iteration, as after a run with more epochs, no file changes.
        """
        path, iteration = self.folder / f"epoch-{epoch}.pth", self.capture().iteration
        if rank() > 0:
            return
        if not path.is_file() and iteration == (epoch + 1) * self.C.niters_per_epoch:
            self.save_epoch(epoch)  # the disk was full when due; the autosave replaced it
        if read_progress(path)[1] == iteration:
            copy_as_last(path)  # a kill may have prevented this
            (self.folder / AUTOSAVE).unlink(missing_ok=True)


def restore(
    learner: Learner, snapshot: Snapshot, C: Settings, refuse_finished: bool = True
) -> tuple[int, int, list[str]]:
    """Restore a snapshot's state; return the iterations done and skipped, and notes.

    Raises:
        UserError: the snapshot is for another network or optimizer, or its run is finished and `refuse_finished`.
    """
    own, path = C.model_dump(mode="json"), snapshot.path
    load_network(learner.network, snapshot, own)
    notes = _restore_optimizers(learner, snapshot, C.optimizer)
    if snapshot.scaler and learner.scale.enabled:
        try:
            learner.scale.load_state_dict(snapshot.scaler)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: the state of the loss scale can't be used ({error!r})") from error
    changed = [key for key, value in snapshot.settings.items() if key in own and own[key] != plain(value)]
    changed = [key for key in changed if key not in IRRELEVANT]
    if changed:
        values = ", ".join(f"{key} {str(snapshot.settings[key])[:80]} -> {str(own[key])[:80]}" for key in changed)
        notes.append(f"{path}: was made with other settings: {values}")
    iteration = iterations_done(snapshot, C.niters_per_epoch)
    if snapshot.iteration not in (None, iteration):
        notes.append(f"{path}: its iteration {snapshot.iteration} is iteration {iteration} here, at the same epoch")
    if iteration >= C.total_iterations:
        finished = f"{path}: the run of {C.nepochs} epochs is finished; to train longer, use -o nepochs=N"
        if refuse_finished:
            raise UserError(finished)
        notes.append(finished)
    return iteration, snapshot.skipped, notes


def iterations_done(snapshot: Snapshot, niters_per_epoch: int) -> int:
    """Number of iterations that a snapshot has done, converted to epochs of `niters_per_epoch` iterations."""
    if snapshot.iteration is None:
        return (snapshot.epoch + 1) * niters_per_epoch
    theirs = snapshot.settings.get("niters_per_epoch")
    if not isinstance(theirs, int) or theirs <= 0:
        return snapshot.iteration
    return snapshot.iteration * niters_per_epoch // theirs


def _restore_optimizers(learner: Learner, snapshot: Snapshot, name: str) -> list[str]:
    """Restore the state of the optimizers, which the settings `name`; return notes. Raises UserError."""
    path = snapshot.path
    if (theirs := len(snapshot.optimizers)) != (ours := len(learner.optimizers)):
        has = f"has states of {theirs} optimizers, this run has {ours}" if theirs else "has no states of optimizers"
        raise UserError(f"{path}: {has}; it can be evaluated or be C.warm_start, but not be continued")
    kind = snapshot.settings.get("optimizer", "sgd")
    if kind != name:
        raise UserError(
            f"{path}: was trained with C.optimizer = {str(kind)[:40]!r}, here {name!r}, which can't use its state; "
            f"continue with -o optimizer={str(kind)[:40]}"
        )
    try:
        for optimizer, state in zip(learner.optimizers, snapshot.optimizers, strict=True):
            load_optimizer(optimizer, state, path)
    except UserError as error:
        if snapshot.settings:
            raise
        # From another program: the weights matter more than the momentum of some hundred iterations.
        return [f"{error}; the optimizers' states start at zero"]
    return []


def load_optimizer(optimizer: Optimizer, state: dict, path: str | Path) -> None:
    """Restore the state of every parameter; learning rates, weight decays and groups stay those of the settings.

    The groups may differ from the optimizer's (earlier versions had two, the published code has six). But the joined
    groups with weight decay (even indices) must have the optimizer's order of parameters, and so must those without.

    Raises:
        UserError: the state is for other parameters or for another kind of optimizer.
    """
    groups, entries = state.get("param_groups"), state.get("state")
    if not isinstance(entries, dict) or not isinstance(groups, list) or not all(map(_has_ids, groups)):
        raise UserError(f"{path}: an optimizer's state has no groups of parameters; the snapshot can only be evaluated")
    own = optimizer.param_groups
    for parity, kind in enumerate(("with", "without")):
        ids = [index for group in groups[parity::2] for index in group["params"]]
        of_kind = [parameter for group in own[parity::2] for parameter in group["params"]]
        if len(ids) != len(of_kind):
            raise UserError(
                f"{path}: an optimizer's state has {len(ids)} parameters {kind} weight decay, this run has "
                f"{len(of_kind)}; the snapshot can only be evaluated"
            )
        for index, parameter in zip(ids, of_kind, strict=True):
            entry = entries.get(index, {})
            if not isinstance(entry, dict):
                raise UserError(f"{path}: an optimizer's state for parameter {str(index)[:40]} can't be used")
            optimizer.state[parameter] = _adapted(optimizer, parameter, entry, path)
    if len(groups) == len(own):
        # Some optimizers count their steps in the groups. What `defaults` names comes from the settings.
        for group, saved in zip(own, groups, strict=True):
            group |= {name: value for name, value in saved.items() if name not in optimizer.defaults | GROUPS}


def _has_ids(group: object) -> bool:
    return (
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and all(isinstance(index, int) for index in group["params"])
    )


def _adapted(optimizer: Optimizer, parameter: Tensor, entry: dict, path: str | Path) -> dict:
    """One parameter's state on its device and in its memory format, as fused kernels need it."""
    found = dict(optimizer.state.get(parameter, {}))
    for name, value in entry.items():
        if value is None:  # PyTorch's momentum before the first step
            continue
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            found[name] = torch.zeros_like(parameter).copy_(value)
        elif isinstance(value, Tensor) and value.ndim == 0:
            found[name] = value.to(parameter.device if optimizer.defaults.get("fused") else "cpu")
        elif isinstance(optimizer, OF_ONE_SHAPE):
            raise UserError(f"{path}: {str(name)[:40]!r} in an optimizer's state has another shape than its parameter")
        else:  # such as the factors of a matrix, or a number
            found[name] = value.to(parameter.device) if isinstance(value, Tensor) else value
    return found
