"""A look at a run before it starts: its recipe, all checks, and what it will need, with nothing trained or written."""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from furnace.checks.checkup import Checkup
from furnace.checks.estimate import PROBE_BATCH, PROBE_SIDES, random_batch, random_learner
from furnace.checks.findings import SAMPLE, Finding, Level, findings_table
from furnace.checks.memory import main_memory
from furnace.checks.resources import MEMORY, TIME
from furnace.engine.monitor import peak_memory
from furnace.engine.record import recipe_table
from furnace.engine.snapshots import is_snapshot_epoch
from furnace.engine.starting import check_unused
from furnace.engine.trainer import Trainer, check_shares
from furnace.utils.errors import UserError
from furnace.utils.files import existing_part
from furnace.utils.settings import Settings
from furnace.utils.wording import byte_size


def dry_run(trainer: Trainer, asked: bool = False, processes: int = 1) -> int:
    """Print recipe, checks and estimates of a run that could start now; returns 1 where there are problems, else 0.

    `asked`: that it should continue a run or replace it, so that snapshots in its folder are nothing to be noted;
    `processes`: on how many devices it is to run, of which this is the first.
    """
    C, device, console = trainer.C, trainer.device, trainer.console
    console.print(recipe_table(C, trainer.dataset, trainer.network, device, trainer.start_iteration))
    findings = Checkup(C, device, SAMPLE).run()
    if not any(finding.check == MEMORY for finding in findings):
        timed = any(finding.check == TIME and finding.level != Level.PROBLEM for finding in findings)
        findings.append(check_memory(C, device, timed))
    findings.append(check_disk(C, trainer))
    if not asked:
        findings += check_folder(C)
    if processes > 1:
        findings += check_division(C, processes, device)
        text = f"time and memory are those of the whole batch on {device}; each of {processes} will hold a share of it"
        findings.append(Finding(Level.NOTE, "devices", text))
    console.print(findings_table(C, findings))
    problems = sum(finding.level == Level.PROBLEM for finding in findings)
    console.print(f"problems: {problems}; nothing was trained or written", highlight=False)
    return 1 if problems else 0


def check_folder(C: Settings) -> list[Finding]:
    """Check for snapshots that training would refuse to replace."""
    try:
        check_unused(C.snapshot_dir)
    except UserError as error:
        return [Finding(Level.NOTE, "snapshots", str(error))]
    return []


def check_division(C: Settings, processes: int, device: torch.device) -> list[Finding]:
    """Check that the batch can be divided among the processes."""
    try:
        check_shares(C, processes, device)
    except UserError as error:
        return [Finding(Level.PROBLEM, "devices", str(error))]
    return []


def check_memory(C: Settings, device: torch.device, timed: bool = True) -> Finding:
    """Memory of a step, steps having been `timed` before: measured on a GPU, extrapolated on a CPU."""
    if not timed:
        return Finding(Level.NOTE, MEMORY, "not measured", "put the other problems right first")
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        text = f"{byte_size(peak_memory())} of {byte_size(total)} at the most on {device}, without torch.compile"
        return Finding(Level.OK, MEMORY, text)
    # The steps that were timed have brought weights, gradients and momentum into memory.
    needed, total = peak_memory() + activation_bytes(C), main_memory()
    text = f"about {byte_size(needed)} of {byte_size(total)}, and a few hundred MiB for each worker process"
    if needed > total:
        advice = "raise C.accumulate, or lower C.batch_size or the crop"
        return Finding(Level.PROBLEM, MEMORY, text, advice)
    return Finding(Level.OK, MEMORY, text)


def activation_bytes(C: Settings) -> float:
    """Bytes of saved activations per step, extrapolated from a small batch: those of the loss that needs most."""
    learner = random_learner(C, torch.device("cpu"), accumulate=1)
    side = PROBE_SIDES[-1]
    batch = random_batch(C, torch.device("cpu"), PROBE_BATCH, side, side)
    weights = {p.data_ptr() for p in learner.network.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    learner.network.train()
    largest, kept = 0, []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for loss in learner.method.losses(learner.network, batch):
            kept.append(loss)  # so that no address is used twice
            largest = max(largest, sum(saved.values()))
            saved.clear()
    pixels = C.batch_size * C.image_height * C.image_width / C.accumulate
    return largest * pixels / (PROBE_BATCH * side**2)


def check_disk(C: Settings, trainer: Trainer) -> Finding:
    """Check the room for the snapshots that are still to come."""
    folder = Path(C.snapshot_dir)
    epochs = [epoch for epoch in range(C.nepochs) if is_snapshot_epoch(epoch, C.nepochs, C.snapshot_iter)]
    count = sum(not (folder / f"epoch-{epoch}.pth").exists() for epoch in epochs[-C.keep_snapshots :])
    weights = sum(value.nbytes for value in trainer.network.state_dict().values())
    momentum = sum(
        p.nbytes for optimizer in trainer.learner.optimizers for g in optimizer.param_groups for p in g["params"]
    )
    needed = (count + 1) * (weights + momentum)  # and the autosave, or one that is being written
    existing = existing_part(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        advice = "name another folder (-o log_dir=... or -o snapshot_dir=...)"
        return Finding(Level.PROBLEM, "snapshots", f"{folder}: can't be made, {existing} can't be written into", advice)
    free = shutil.disk_usage(existing).free
    each = byte_size(weights + momentum)
    text = f"{count} snapshots of {each}: {byte_size(needed)} at the most, {byte_size(free)} free in {folder}"
    if needed > free:
        advice = "make room, set C.keep_snapshots or C.snapshot_iter, or name another folder (-o snapshot_dir=...)"
        return Finding(Level.PROBLEM, "snapshots", text, advice)
    return Finding(Level.OK, "snapshots", text)
