"""Dry run: show a run's recipe, all checks, and the resources it needs; nothing is trained or written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from furnace.checks.checkup import Checkup
from furnace.checks.findings import SAMPLE, Finding, Level, findings_table
from furnace.checks.memory import main_memory
from furnace.checks.peak import PROCESS_BYTES, predicted_peak, remedies, snapshot_bytes
from furnace.checks.resources import MEMORY, TIME
from furnace.engine.monitor import peak_memory
from furnace.engine.preconditions import check_classes, check_shares
from furnace.engine.recipe import recipe_table
from furnace.engine.snapshots import is_snapshot_epoch
from furnace.engine.starting import check_unused
from furnace.engine.trainer import Trainer
from furnace.utils.errors import UserError
from furnace.utils.files import existing_part
from furnace.utils.settings import Settings
from furnace.utils.wording import byte_size, counted


def dry_run(trainer: Trainer, asked: bool = False, processes: int = 1) -> int:
    """Print recipe, checks and estimates of a run that could start now; returns 1 if there are problems, else 0.

    Args:
        trainer: of the run.
        asked: the run should continue or replace another one, so snapshots in its folder are not reported.
        processes: number of devices of the run; this process uses the first one.
    """
    C, device, console = trainer.C, trainer.device, trainer.console
    console.print(recipe_table(C, trainer.dataset, trainer.network, device, trainer.start_iteration))
    start = trainer.network.weights_report if trainer.branched or not trainer.fresh else ""
    findings = Checkup(C, device, SAMPLE, start).run()
    timed = any(finding.check == TIME and finding.level != Level.PROBLEM for finding in findings)
    findings.append(check_memory(C, device, timed))
    findings.append(check_disk(C))
    if not any(finding.level == Level.PROBLEM for finding in findings):  # else its labels may be known to be damaged
        findings += refused(Level.PROBLEM, "classes", check_classes, C, trainer.dataset)
    if not asked:  # snapshots that training would refuse to replace
        findings += refused(Level.NOTE, "snapshots", check_unused, C.snapshot_dir)
    if processes > 1:
        findings += refused(Level.PROBLEM, "devices", check_shares, C, processes, device)
        text = f"time and memory are for the whole batch on {device}; each of {processes} devices has a share of it"
        findings.append(Finding(Level.NOTE, "devices", text))
    console.print(findings_table(C, findings))
    problems = sum(finding.level == Level.PROBLEM for finding in findings)
    console.print(f"problems: {problems}; nothing was trained or written", highlight=False)
    return 1 if problems else 0


def refused(level: Level, name: str, check: Callable[..., object], *args: Any) -> list[Finding]:
    """The UserError of `check(*args)` as a finding; empty if there is none."""
    try:
        check(*args)
    except UserError as error:
        return [Finding(level, name, str(error))]
    return []


def check_memory(C: Settings, device: torch.device, timed: bool = True) -> Finding:
    """Check the memory of a step: predicted, and also measured if steps were `timed` on a GPU."""
    try:
        needed = predicted_peak(C, device)
    except UserError as error:
        return Finding(Level.NOTE, MEMORY, f"not predicted: {error}")
    on_gpu = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if on_gpu else main_memory()
    text = f"about {byte_size(needed)} of {byte_size(total)} for a step{with_checkpoint(C, device)}"
    if on_gpu and timed:
        return Finding(Level.OK, MEMORY, f"{text}; measured without torch.compile: {byte_size(peak_memory())}")
    if needed + PROCESS_BYTES <= total:
        return Finding(Level.OK, MEMORY, f"{text}, plus a few hundred MiB per process")
    found = remedies(C, device, total - PROCESS_BYTES)
    advice = f"any of: {', '.join(found)}" if found else "no setting makes it fit: choose a smaller C.backbone"
    return Finding(Level.PROBLEM, MEMORY, text, advice)


def with_checkpoint(C: Settings, device: torch.device) -> str:
    """The memory with `C.checkpoint`, in brackets; empty if it is set, or the encoder has no blocks to recompute."""
    if C.checkpoint:
        return ""
    try:
        return f" ({byte_size(predicted_peak(C.updated(checkpoint=True), device))} with C.checkpoint = True)"
    except UserError:
        return ""


def check_disk(C: Settings) -> Finding:
    """Check the disk space for the remaining snapshots."""
    folder = Path(C.snapshot_dir)
    epochs = [epoch for epoch in range(C.nepochs) if is_snapshot_epoch(epoch, C.nepochs, C.snapshot_iter)]
    count = sum(not (folder / f"epoch-{epoch}.pth").exists() for epoch in epochs[-C.keep_snapshots :])
    existing = existing_part(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        advice = "choose another folder (-o log_dir=... or -o snapshot_dir=...)"
        return Finding(Level.PROBLEM, "snapshots", f"{folder}: can't be created, {existing} is not writable", advice)
    try:
        each = snapshot_bytes(C)
    except UserError as error:
        return Finding(Level.NOTE, "snapshots", f"size not predicted: {error}")
    needed = (count + 1) * each  # plus the autosave, or a snapshot that is being written
    free = shutil.disk_usage(existing).free
    saved = f"{counted(count, 'snapshot')} of {byte_size(each)}"
    text = f"{saved}: at most {byte_size(needed)}, {byte_size(free)} free in {folder}"
    if needed > free:
        advice = "make room, set C.keep_snapshots or C.snapshot_iter, or choose another folder (-o snapshot_dir=...)"
        return Finding(Level.PROBLEM, "snapshots", text, advice)
    return Finding(Level.OK, "snapshots", text)
