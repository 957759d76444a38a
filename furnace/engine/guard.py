"""Undo iterations whose loss or gradients are not finite."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from furnace.engine.internals import copy_all
from furnace.seg_opr.whole_batch import WholeBatch

GRADIENTS = "gradients"
SUM = "loss"  # the scalar that is not finite whenever one of its parts isn't
MAX_UNREAD = 10_000  # iterations; beyond them the host looks by itself
Remembered = list[tuple[list[Tensor], Tensor]]  # tensors of one dtype, and their values as one flat tensor


@dataclass(frozen=True)
class Fault:
    """An iteration that was not finite, and the parts of the loss that were not, or "gradients"."""

    iteration: int
    parts: tuple[str, ...]


class Guard:
    """Judges every iteration on the device; the host learns of it only when it asks.

    An update that isn't finite never happens: the optimizers take `bad` as a flag and do nothing, and all that the
    forward passes changed besides (BatchNorm statistics, branches without an optimizer) is put back on the device. With
    `freeze` all later iterations are undone, too, so that however late the host asks, the networks are in the state
    before the first bad iteration.

    Args:
        network: whose state is guarded.
        whole: so that all processes come to the same verdict.
        freeze: nothing changes after a bad iteration; otherwise it alone is skipped.
    """

    def __init__(self, network: nn.Module, whole: WholeBatch, freeze: bool = True):
        self.network, self.whole, self.freeze = network, whole, freeze
        self.bad = torch.zeros((), dtype=torch.bool, device=next(network.parameters()).device)
        self.unread: list[tuple[int, list[str], Tensor]] = []
        self.faults: list[Fault] = []  # read, but not asked for yet

    def remember(self, averages: bool = False) -> Remembered:
        """A copy of the buffers, which forward passes change, or of the `averages`, parameters without an optimizer.

        Averages are as large as networks and move after the optimizers' step: a copy before would be held at the peak.
        """
        parameters = (parameter.detach() for parameter in self.network.parameters() if not parameter.requires_grad)
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in parameters if averages else self.network.buffers():
            groups.setdefault(tensor.dtype, []).append(tensor)
        return [(tensors, flat(tensors)) for tensors in groups.values()]

    def judge(self, iteration: int, scalars: dict[str, Tensor], bad_gradients: Tensor) -> Tensor:
        """Judge an iteration: True () bool on the device if it must be undone.

        Args:
            iteration: its number.
            scalars: () by name. The loss decides; the others say which part of it is wrong.
            bad_gradients: whether the gradients are not finite, () bool; decides, too.
        """
        flags = {SUM: ~torch.isfinite(scalars[SUM]), GRADIENTS: bad_gradients}
        flags |= {name: ~torch.isfinite(value) for name, value in scalars.items() if name not in flags}
        counts = self.whole.total(torch.stack(list(flags.values())).float())
        if len(self.unread) == MAX_UNREAD:
            self._read()
        self.unread.append((iteration, list(flags), counts))
        found = counts[:2].sum() > 0
        self.bad = self.bad | found if self.freeze else found
        return self.bad

    @torch.no_grad()
    def undo(self, before: Remembered, bad: Tensor | bool = True) -> None:
        """Put back what was remembered, if `bad`."""
        if isinstance(bad, Tensor) and bad.device.type == "cpu" and not bad:
            return
        for tensors, old in before:
            if isinstance(bad, Tensor):
                old = torch.where(bad, old, flat(tensors))
            pieces = old.split([t.numel() for t in tensors])
            copy_all(tensors, [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)])

    def check(self) -> list[Fault]:
        """The bad iterations since the last check; waits for the device. With `freeze` only the first counts."""
        self._read()
        faults, self.faults = self.faults, []
        return faults

    def _read(self) -> None:
        # One transfer for all: every look at the device waits for it.
        values = torch.cat([counts for *_, counts in self.unread]).tolist() if self.unread else []
        for iteration, names, _ in self.unread:
            own, values = values[: len(names)], values[len(names) :]
            wrong = [name for name, count in zip(names, own, strict=True) if count]
            # The sum and the gradients only follow from their parts.
            cause = [name for name in wrong if name not in (SUM, GRADIENTS)] or wrong[:1]
            if SUM in wrong or GRADIENTS in wrong:
                self.faults.append(Fault(iteration, tuple(cause)))
        self.unread.clear()

    def thaw(self) -> None:
        """Begin anew after a check."""
        self.bad = torch.zeros_like(self.bad)


def flat(tensors: list[Tensor]) -> Tensor:
    """A copy of the values of tensors of one dtype, (N,)."""
    return torch.cat([tensor.flatten() for tensor in tensors])
