"""Error messages with advice: exceptions, memory, losses that are not finite, skipped images."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from furnace.datasets.dataset import TrainSet
from furnace.datasets.randomness import Purpose
from furnace.engine.distributed import gather_objects, launched
from furnace.engine.guard import Fault
from furnace.engine.monitor import logger
from furnace.utils.errors import PeerEnded, UserError, last_message
from furnace.utils.files import FULL
from furnace.utils.settings import Settings
from furnace.utils.wording import few

NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|not enough memory|can(?:'t|not) allocate memory|out of memory|insufficient memory",
    re.IGNORECASE,
)
LOST_PEER = re.compile(
    r"gloo|NCCL|Connection (closed|reset) by peer|Broken pipe|Failed to recv|remote server", re.IGNORECASE
)
PEER_ENDED = (
    "another process of this run has ended; see its message (a killed process has none); "
    "-c auto continues from the last save"
)
WORKER_LOST = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (.*)", re.DOTALL)
LESS_LOADING = "lower C.num_workers and see dmesg"
NAMES_SHOWN = 16
GRAPH_USED = "backward through the graph a second time"


def explain_training(error: Exception, C: Settings, dataset: TrainSet, iteration: int) -> UserError | None:
    """The one-line error for an exception of the training loop; None if the traceback is more useful.

    Args:
        error: raised by the loader, the step or a save.
        C, dataset: settings and images of the run.
        iteration: the iteration that failed.
    """
    if isinstance(error, UserError):
        return UserError(last_message(error))
    if isinstance(error, OSError) and error.errno in FULL:
        file = error.filename or "a temporary file"
        return UserError(f"{file}: no space left on the disk; make room, then -c auto continues from the last save")
    if GRAPH_USED in str(error):
        return UserError(
            f"method {C.method!r}: two losses depend on one pass (yield their sum as one Loss, docs/doors.md), or a "
            "module keeps a tensor that was computed when it was made"
        )
    cause = f"files being read by loaders: {files_being_read(dataset)}; if none is the cause, memory ran out"
    return explain(error, C, smaller_steps, f" in iteration {iteration}", cause)


def files_being_read(dataset: TrainSet) -> str:
    """The images that loaders are reading, or "none"."""
    return ", ".join(map(str, dataset.being_read())) or "none"


Advice = Callable[[Settings], str]


@contextmanager
def faults_explained(C: Settings, advice: Advice) -> Iterator[None]:
    """Context that turns errors from lack of memory, a killed loader or a lost process into a UserError with advice."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if explained := explain(error, C, advice):
            raise explained from error
        raise


def explain(
    error: Exception, C: Settings, advice: Advice, when: str = "", cause: str = "usually memory ran out"
) -> UserError | None:
    """The one-line error for lack of memory, a killed loader or a lost process; None for another exception."""
    if is_out_of_memory(error):
        return UserError(out_of_memory(C, advice, is_of_gpu(error), when))
    if lost := WORKER_LOST.search(str(error)):
        return UserError(f"{loader_lost(lost)}; {cause}: {LESS_LOADING}")
    return PeerEnded(PEER_ENDED) if launched() and is_lost_peer(error) else None


def is_lost_peer(error: Exception) -> bool:
    """True if another process of the run did not answer."""
    return isinstance(error, RuntimeError) and LOST_PEER.search(str(error)) is not None


def is_out_of_memory(error: Exception) -> bool:
    """True if PyTorch, CUDA, OpenCV or Python had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY.search(str(error)) is not None


def is_of_gpu(error: Exception) -> bool:
    """True if GPU memory ran out: an error of the allocator, or another one if the CUDA context can't be created."""
    return isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error)


def out_of_memory(C: Settings, advice: Advice, on_gpu: bool, when: str = "") -> str:
    """Message about the memory that ran out, with the settings to change."""
    where, more = ("CUDA", "amp=bf16 if it is off") if on_gpu else ("CPU", "num_workers")
    return f"{where} out of memory{when}: {advice(C)}, {more}, or end other programs"


def smaller_steps(C: Settings) -> str:
    """Advice for training."""
    exact = "" if C.checkpoint else "set C.checkpoint = True (same results, -o checkpoint=true), "
    return (
        f"{exact}raise C.accumulate = {C.accumulate} (same batch in more parts, -o accumulate={2 * C.accumulate}), "
        f"or lower C.batch_size = {C.batch_size}, C.image_height x C.image_width = {C.image_height} x {C.image_width}"
    )


def smaller_windows(C: Settings) -> str:
    """Advice for evaluation, prediction and export."""
    return (
        f"lower C.eval_batch_size = {C.eval_batch_size} (-o eval_batch_size=1), C.eval_crop_size = {C.eval_crop_size} "
        f"or the largest of C.eval_scale_array = {C.eval_scale_array}"
    )


def loader_lost(lost: re.Match) -> str:
    """Process number and reason from PyTorch's message about a dead loader."""
    pid, how = lost.groups()
    return f"a loader process ({pid.strip()}) {how.split('.')[0].strip()}"


def not_finite(fault: Fault, C: Settings, dataset: TrainSet) -> str:
    """Message with the iteration, the parts of the loss that are not finite, and the files of the batch."""
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
        files.append(f"{name} {few(names, NAMES_SHOWN)}")
    return (
        f"iteration {fault.iteration} (epoch {epoch}): {', '.join(fault.parts)} not finite; batch: {'; '.join(files)}"
    )


class SkippedImages:
    """Images of a run that could not be read and were replaced by others (`C.on_bad_image = "skip"`).

    Each is logged once with the reason; all are logged again at the end.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def note(self, reasons: Iterable[str]) -> None:
        """Add the reasons of a batch; log the new ones."""
        for reason in reasons:
            if reason not in self.reasons:
                logger.warning(f"skipped: {reason}")
                self.reasons.append(reason)

    def report(self, together: bool = True) -> None:
        """Log the replaced images of all processes, which must all call this; or, unless `together`, of this one."""
        shares = gather_objects(self.reasons) if together else [self.reasons]
        found = list(dict.fromkeys(reason for reasons in shares for reason in reasons))
        if found:
            lines = "\n".join(f"  {reason}" for reason in found)
            logger.warning(f"{len(found)} images could not be read and were replaced by others:\n{lines}")
