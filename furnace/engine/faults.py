"""What went wrong while training, in the words of someone who has to put it right."""

import re

import torch

from furnace.datasets.dataset import TrainSet
from furnace.datasets.randomness import Purpose
from furnace.engine.guard import Fault
from furnace.utils.config import Settings
from furnace.utils.errors import UserError, last_message
from furnace.utils.files import FULL

NO_MEMORY = re.compile(r"DefaultCPUAllocator|not enough memory|can't allocate memory|out of memory", re.IGNORECASE)
LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer|Broken pipe", re.IGNORECASE)
WORKER_LOST = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (.*)", re.DOTALL)
NAMES_SHOWN = 16


def explain(error: Exception, C: Settings, dataset: TrainSet, iteration: int, processes: int) -> UserError | None:
    """The one line for an exception of the training loop; None where there is nothing better than its traceback.

    Args:
        error: what came out of the loader, the step or a save.
        C, dataset: what is trained on what.
        iteration: the one that failed.
        processes: of the run.
    """
    if isinstance(error, UserError):
        return UserError(last_message(error))
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY.search(text):
        return UserError(out_of_memory(C, iteration, isinstance(error, torch.OutOfMemoryError)))
    if lost := WORKER_LOST.search(text):
        return UserError(worker_lost(lost[1], lost[2], dataset))
    if processes > 1 and isinstance(error, RuntimeError) and LOST_PEER.search(text):
        return UserError(
            "another process of this run has ended, its own message says why (a kill leaves none); "
            "-c auto goes on from the last save"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        file = error.filename or "a temporary file"
        return UserError(f"{file}: no space left on the disk; make room, then -c auto goes on from the last save")
    return None


def out_of_memory(C: Settings, iteration: int, on_gpu: bool) -> str:
    """Which settings to lower."""
    where, mixed = ("CUDA", "amp=bf16 if it is off, ") if on_gpu else ("CPU", "num_workers, ")
    return (
        f"{where} out of memory in iteration {iteration}: raise C.accumulate = {C.accumulate} (same batch in more "
        f"parts, -o accumulate={2 * C.accumulate}), or lower C.batch_size = {C.batch_size}, "
        f"C.image_height x C.image_width = {C.image_height} x {C.image_width}, {mixed}or end other programs"
    )


def worker_lost(pid: str, how: str, dataset: TrainSet) -> str:
    """Which files the workers were at when one of them died."""
    files = ", ".join(map(str, dataset.being_read())) or "none"
    reason = how.split(".")[0].strip()
    return (
        f"a loader process ({pid.strip()}) {reason}; files being read by loaders: {files}; if none is to blame, "
        "memory ran out: lower C.num_workers, and see dmesg"
    )


def not_finite(fault: Fault, C: Settings, dataset: TrainSet) -> str:
    """Iteration, part of the loss and file names of a batch that is not finite."""
    epoch, step = divmod(fault.iteration, C.niters_per_epoch)
    positions = range(step * C.batch_size, (step + 1) * C.batch_size)
    streams = {"labelled": Purpose.ORDER_LABELED}
    if dataset.unlabeled is not None:
        streams |= {"unlabelled": Purpose.ORDER_UNLABELED_0}
        if dataset.masks is not None:
            streams |= {"mixed in": Purpose.ORDER_UNLABELED_1}
    files = []
    for name, purpose in streams.items():
        names = [dataset.sample(epoch, position, purpose).image.name for position in positions]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        files.append(f"{name} {', '.join(names[:NAMES_SHOWN])}{more}")
    return (
        f"iteration {fault.iteration} (epoch {epoch}): {', '.join(fault.parts)} not finite; batch: {'; '.join(files)}"
    )
