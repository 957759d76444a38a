"""A training batch, from the loader to the losses."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from furnace.datasets.randomness import Draws


@dataclass
class TrainBatch:
    """One training batch.

    `images`, `unlabeled_0`, `unlabeled_1`: (B, 3, H, W), uint8 RGB from the loader, normalised floats for the
    network; `labels` (B, H, W) int64 (uint8 from the loader), 255 ignored; `mask` (B, 1, H, W) of 0 and 1, the CutMix
    mask; `valid_0`, `valid_1` (B, 1, H, W): 1 for pixels of the unlabelled images, 0 for padding, if the method
    needs them. Unlabelled images are None for methods without them; the second stream and the mask are None without
    CutMix.

    `students_0`, `students_1`: the students' views of the unlabelled images, (B, 3, H, W) each; by default the view of
    the teacher. `skipped`: the reasons why images were replaced. `draws`: randomness of the iteration.
    """

    images: Tensor
    labels: Tensor
    unlabeled_0: Tensor | None = None
    unlabeled_1: Tensor | None = None
    mask: Tensor | None = None
    valid_0: Tensor | None = None
    valid_1: Tensor | None = None
    students_0: tuple[Tensor, ...] = ()
    students_1: tuple[Tensor, ...] = ()
    skipped: list[str] = field(default_factory=list)
    draws: Draws = field(default_factory=Draws)

    def __post_init__(self):
        if not self.students_0:
            self.students_0, self.students_1 = (self.unlabeled_0,), (self.unlabeled_1,)

    def map(self, function: Callable[[Tensor], Tensor]) -> "TrainBatch":
        """Apply `function` to every tensor, once for a tensor of two names."""
        known: dict[int, Tensor] = {}

        def mapped(value: object) -> object:
            if isinstance(value, tuple):
                return tuple(mapped(part) for part in value)
            if not isinstance(value, Tensor):
                return value
            if id(value) not in known:
                known[id(value)] = function(value)
            return known[id(value)]

        return TrainBatch(**{entry.name: mapped(getattr(self, entry.name)) for entry in fields(self)})

    def split(self, parts: int) -> list["TrainBatch"]:
        """Split the batch into `parts` consecutive parts of the same size."""
        size = len(self.images) // parts
        cut = [self.map(lambda tensor, i=i: tensor[i * size : (i + 1) * size]) for i in range(parts)]
        return [replace(part, draws=self.draws.part(i * size)) for i, part in enumerate(cut)]

    def pin_memory(self) -> "TrainBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "TrainBatch":
        """A copy on `device`."""
        return self.map(lambda tensor: uploaded(tensor, device))


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU's tensor on `device`; the host does not wait for a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
