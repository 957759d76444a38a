"""Predict the peak memory of a training step from shapes alone, and find settings with which it fits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from furnace.base_model.shortcuts import use_shortcuts
from furnace.checks.estimate import random_batch
from furnace.engine.distributed import CPU
from furnace.engine.internals import counted_without_memory
from furnace.engine.learner import Learner, build_learner
from furnace.engine.numerics import choose_amp, memory_format
from furnace.engine.optim import parameters
from furnace.engine.snapshots import tensors_in
from furnace.methods.build import build_network
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import byte_size, one_line

# Memory inside operations, which libraries do not report: 0 to 14 % on CPUs, 7 % for the Cityscapes recipe on an H100.
# The factor is the middle.
LIBRARIES = 1.07
PROCESS_BYTES = 2**29  # of CUDA's context, or of Python and its libraries
PARTS = 2  # of an accumulated batch: from the second on, all gradients exist and each part needs the same memory
CROP_SHARES = (3 / 4, 1 / 2, 1 / 4)  # of the sides, tried in this order


def predicted_peak(C: Settings, device: torch.device = CPU) -> int:
    """Peak bytes of tensors in a step on a device: networks, optimizers, batch, graph, gradients.

    The step computes only shapes, which takes seconds for any size on any machine, with the operations of a CPU,
    in the form that `device` uses.

    Raises:
        UserError: the settings do not define a network, or one of its operations needs values.
    """
    return int(LIBRARIES * from_shapes(peak_of_shapes, C, device))


def snapshot_bytes(C: Settings) -> int:
    """Bytes of the tensors in a snapshot: weights, and the state that optimizers have from the first step on.

    Raises:
        UserError: as in `predicted_peak`.
    """
    return from_shapes(snapshot_of_shapes, C)


def from_shapes(work: Callable[..., int], *args: Any) -> int:
    """`work(*args)`, which uses tensors without memory. Raises UserError if it needs their values."""
    try:
        return work(*args)
    except RuntimeError as error:
        raise UserError(f"a step can't be computed from shapes alone ({one_line(error)})") from error


def peak_of_shapes(C: Settings, device: torch.device) -> int:
    """Peak bytes of all tensors that exist at the same time in a step."""
    with counted_without_memory() as counter:
        network = build_network(C, pretrained=False)
        for parameter in network.parameters():
            if parameter.ndim == 4:  # `.to` would swap tensors, which fails without memory
                parameter.data = parameter.data.contiguous(memory_format=memory_format(device))
        amp, parts = choose_amp(C.amp, device, network)[0], min(PARTS, C.accumulate)
        learner = build_learner(C, network, amp=amp, accumulate=parts, compiled=False)
        use_shortcuts(network, device.type == "cpu")
        fill_optimizers(learner)
        batch = random_batch(C, CPU, C.batch_size, C.image_height, C.image_width)
        images = C.batch_size // C.accumulate * parts
        learner.step(batch.map(lambda tensor: tensor[:images]), 0)
    return counter.peak


def snapshot_of_shapes(C: Settings) -> int:
    """Bytes of the tensors in a snapshot."""
    with counted_without_memory():
        network = build_network(C, pretrained=False)
        learner = build_learner(C, network, amp="off", compiled=False)
        fill_optimizers(learner)
        saved = [network.state_dict(), *(optimizer.state_dict() for optimizer in learner.optimizers)]
        return sum(tensor.nbytes for tensor in tensors_in(saved))


def fill_optimizers(learner: Learner) -> None:
    """Create the state that optimizers have from the first step on."""
    for optimizer in learner.optimizers:
        for parameter in parameters(optimizer):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def remedies(C: Settings, device: torch.device, room: int) -> list[str]:
    """Changes of settings, mildest first, each of which makes a step fit into `room` bytes, with predicted bytes.

    If no single change is enough, recomputation and accumulation are combined, then also with smaller crops; empty if
    nothing fits.
    """
    parts = [C.accumulate * 2**power for power in range(1, C.batch_size.bit_length())]
    parts = [count for count in parts if C.batch_size % count == 0 and C.batch_size // count > 1]
    alone = [
        [{}] if C.checkpoint else [{"checkpoint": True}],
        [{"accumulate": count} for count in parts],
        list(smaller_crops(C)),
    ]
    found = [told for options in alone if (told := first_that_fits(C, options, device, room))]
    if not found:
        others = {"checkpoint": True} | ({"accumulate": parts[-1]} if parts else {})
        together = first_that_fits(C, [others, *(others | crop for crop in smaller_crops(C))], device, room)
        found = [together] if together else []
    return found


def smaller_crops(C: Settings) -> Iterator[dict[str, int]]:
    """Sides of smaller crops, largest first, in multiples of 16 or 14, as patch encoders need them."""
    for share in CROP_SHARES:
        for multiple in (16, 14):
            sides = (int(side * share) // multiple * multiple for side in (C.image_height, C.image_width))
            crop = dict(zip(("image_height", "image_width"), sides, strict=True))
            if min(crop.values()) > 0 and is_right(C, crop):
                yield crop
                break


def is_right(C: Settings, changes: dict[str, Any]) -> bool:
    """True if the changed settings are valid."""
    try:
        C.updated(**changes)
    except UserError:
        return False
    return True


def first_that_fits(C: Settings, options: list[dict[str, Any]], device: torch.device, room: int) -> str | None:
    """The first changes of settings with which a step fits into `room` bytes, as text; None if none fits."""
    for changes in filter(None, options):
        try:
            needed = predicted_peak(C.updated(**changes), device)
        except UserError:  # the encoder has no blocks to recompute
            continue
        if needed <= room:
            given = " ".join(f"-o {name}={str(value).lower()}" for name, value in changes.items())
            return f"{given} ({byte_size(needed)})"
    return None
