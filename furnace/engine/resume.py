"""Continuing a run: which snapshot, and its state taken over."""

import torch

from furnace.engine.checkpoint import Snapshot, check_finite, load_network, load_optimizer, load_snapshot
from furnace.engine.distributed import restarts
from furnace.engine.learner import Learner
from furnace.engine.snapshot_folder import AUTO, newest_sound
from furnace.utils.errors import UserError
from furnace.utils.settings import COSTS, EVALUATION, PLACES, Settings

Found = tuple[Snapshot, str]
# Settings that change neither what is learned nor from what.
IRRELEVANT = PLACES | COSTS | EVALUATION | {"snapshot_iter"}


def find_resume(resume: str | None, folder: str) -> tuple[Found | None, list[str]]:
    """The snapshot to continue from, None for a run from its start, and what there is to say about the choice.

    Args:
        resume: a path, "auto" or None. After a restart by torchrun it is "auto", whatever the command said.
        folder: where "auto" looks.

    Raises:
        UserError: there is no such file, or no sound one.
    """
    if restarts():
        resume = AUTO
    if resume is None:
        return None, []
    if resume != AUTO:
        snapshot = load_snapshot(resume)
        check_finite(snapshot, resume)
        return (snapshot, resume), []
    newest = newest_sound(folder)
    if newest is None:
        return None, [f"-c auto: nothing to continue in {folder}; the run begins"]
    path, snapshot, faults = newest
    notes = [f"-c auto: {fault}" for fault in faults]
    return (snapshot, str(path)), [*notes, f"-c auto: continues {path}"]


def restore(
    learner: Learner, snapshot: Snapshot, path: str, C: Settings, notes: list[str], more: bool = True
) -> tuple[int, int]:
    """Take over a snapshot's state; returns the iterations done and skipped, and adds to `notes` what to know.

    Raises:
        UserError: the snapshot is of another network, or its run is finished and there should be `more` of it.
    """
    own = C.model_dump()
    load_network(learner.network, snapshot, path, own)
    _restore_optimizers(learner, snapshot, path, notes)
    if snapshot.scaler and learner.scaler.is_enabled():
        _restore_scaler(learner.scaler, snapshot.scaler, path)
    changed = [key for key, value in snapshot.settings.items() if key in own and own[key] != value]
    changed = [key for key in changed if key not in IRRELEVANT]
    if changed:
        values = ", ".join(f"{key} {str(snapshot.settings[key])[:80]} -> {str(own[key])[:80]}" for key in changed)
        notes.append(f"{path}: was made with other settings: {values}")
    iteration = snapshot.iteration
    if iteration is None:
        iteration = (snapshot.epoch + 1) * C.niters_per_epoch
    if iteration >= C.nepochs * C.niters_per_epoch:
        finished = f"{path}: the run of {C.nepochs} epochs is finished; for more of them -o nepochs=N"
        if more:
            raise UserError(finished)
        notes.append(finished)
    return iteration, snapshot.skipped


def _restore_optimizers(learner: Learner, snapshot: Snapshot, path: str, notes: list[str]) -> None:
    if len(snapshot.optimizers) != len(learner.optimizers):
        raise UserError(f"{path}: holds weights but not the optimizers' states; it can be evaluated, not continued")
    try:
        for optimizer, state in zip(learner.optimizers, snapshot.optimizers, strict=True):
            load_optimizer(optimizer, state, path)
    except UserError as error:
        if snapshot.settings:
            raise
        # Of another program: the weights are worth more than the momentum of its last hundred iterations.
        notes.append(f"{error}; the momentum begins at zero")


def _restore_scaler(scaler: torch.amp.GradScaler, state: dict, path: str) -> None:
    try:
        scaler.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the loss scaling's state can't be used ({error!r})") from error
