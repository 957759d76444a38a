"""Processes of one run: start and end, and communication."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from furnace.engine.internals import abort_processes, copy_all
from furnace.engine.meeting import meet
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.errors import UserError

CPU = torch.device("cpu")
BEGUN = "begun"  # key in the store
T = TypeVar("T")
POLL_SECONDS = 0.2
PATIENCE = timedelta(minutes=30)  # with other processes: one may have to compile alone
_lasting: dist.Store | None = None  # of all attempts of a run: torchrun's, or that of `launch`
_store: dist.Store | None = None  # of this attempt's processes, which `start` joined
_restarts = 0  # number known to these processes
MESSAGE_ELEMENTS = 2**24  # a message is sent once it has this many


def rank() -> int:
    """Number of this process among all, 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> bool:
    """True if torchrun or `launch` started this process."""
    return "LOCAL_RANK" in os.environ


def check_launch() -> None:
    """Raise UserError if this process should be one of several, but does not know its number on this machine."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1" and not launched():
        raise UserError(
            f"the environment has WORLD_SIZE = {count}, but no LOCAL_RANK: each process would train alone; set "
            "LOCAL_RANK, too (docs/machines.md), or unset WORLD_SIZE"
        )


def restarts() -> int:
    """Number of times that torchrun restarted the run after a process, on any machine, had ended."""
    return max(_restarts, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


def has_begun() -> bool:
    """True after a restart, if an earlier attempt had prepared the folder of snapshots, or if this is not known."""
    lasts = _lasting is not None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return restarts() > 0 and (not lasts or _lasting.check([BEGUN]))


def mark_begun() -> None:
    """Let later attempts know that the folder's snapshots are those of this run; they continue from there."""
    if _lasting is not None:
        _lasting.set(BEGUN, "")


def start(device: torch.device) -> None:
    """Join the other processes that torchrun started, over NCCL on GPUs and gloo on CPUs.

    Raises:
        UserError: some did not join.
    """
    if not launched() or dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, number, count = next(dist.rendezvous("env://"))
    global _lasting, _store, _restarts
    # After a restart torchrun's store still contains the addresses of the previous processes.
    name, _restarts = meet(store, number, count, restarts())
    _lasting, _store = store, dist.PrefixStore(name, store)
    device_id = device if device.type == "cuda" else None
    options = {"store": _store, "rank": number, "world_size": count, "device_id": device_id}
    dist.init_process_group(backend, timeout=PATIENCE, **options)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def abandon() -> None:
    """Leave after a fault without waiting for the other processes, which may be waiting for this one."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        # A normal end would wait for all processes, and the message about the fault would never appear.
        abort_processes()
    else:
        stop()


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the first process; an empty list in the others."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def from_first(make: Callable[[], T]) -> T:
    """The value of `make` in every process; only the first process calls it.

    Raises:
        UserError: the error of `make`, in every process, so that none waits for the value.
    """
    value, problem = None, None
    if rank() == 0:
        try:
            value = make()
        except UserError as error:
            problem = error
    if world_size() > 1:
        shared = [value, problem]
        dist.broadcast_object_list(shared, 0)
        value, problem = shared
    if problem:
        raise problem
    return value


def totals_at_the_end(values: Sequence[int]) -> list[int]:
    """The sum of each value over all processes, in the first process; just `values` in the others.

    The first process waits for the others without a time limit, unlike a collective.
    """
    if world_size() == 1:
        return list(values)
    keys = [f"total_{number}" for number in range(len(values))]
    for key, value in zip(keys, values, strict=True):
        _store.add(key, value)
    _store.add("arrived", 1)
    while rank() == 0 and _store.add("arrived", 0) < world_size():
        time.sleep(POLL_SECONDS)
    return [_store.add(key, 0) for key in keys] if rank() == 0 else list(values)


def share_weights(module: nn.Module) -> None:
    """Copy the parameters and buffers of the first process to all processes."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def average_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in few messages of limited size.

    A step has several backward passes per network, and only the last could overlap with communication: one exchange at
    the end is simpler and works for any number of losses.
    """
    if world_size() == 1:
        return
    waiting = list(tensors)
    while waiting:
        size, chunk = 0, []
        while waiting and size < MESSAGE_ELEMENTS:
            chunk.append(waiting.pop())
            size += chunk[-1].numel()
        flat = torch.cat([tensor.flatten() for tensor in chunk])
        dist.all_reduce(flat)
        pieces = (flat / world_size()).split([tensor.numel() for tensor in chunk])
        copy_all(chunk, [piece.view(tensor.shape) for piece, tensor in zip(pieces, chunk, strict=True)])


class SharedBatch(WholeBatch):
    """A batch in equal shares, one per process of the default group."""

    def total(self, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        return self.total(value) / world_size()

    def gather(self, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)


def whole_batch() -> WholeBatch:
    """Sums and means over the processes of this run."""
    return SharedBatch() if world_size() > 1 else ALONE
