"""Undo iterations whose loss or gradients are not finite."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from furnace.engine.internals import copy_all
from furnace.seg_opr.whole_batch import WholeBatch

GRADIENTS = "gradients"
SUM = "loss"  # the sum of all parts, not finite if a part is not
MAX_UNREAD = 10_000  # iterations; then the host reads the results without being asked
Remembered = list[tuple[list[Tensor], Tensor]]  # tensors of one dtype, and their values as one flat tensor


@dataclass(frozen=True)
class Fault:
    """An iteration that was not finite, and the parts of the loss that were not finite, or "gradients"."""

    iteration: int
    parts: tuple[str, ...]


class Guard:
    """Judge every iteration on the device; the host reads the results only in `check`.

    Updates that are not finite never happen: with the flag `bad` the optimizers do nothing, and all other changes of an
    iteration (BatchNorm statistics, branches without an optimizer) are undone on the device. With `freeze` all later
    iterations are undone, too: the networks keep the state before the first bad iteration until the host checks.

    Args:
        network: the network to guard.
        whole: combines the results of all processes, so that all judge alike.
        freeze: nothing changes after a bad iteration; otherwise only this iteration is skipped.
    """

    def __init__(self, network: nn.Module, whole: WholeBatch, freeze: bool = True):
        self.network, self.whole, self.freeze = network, whole, freeze
        self.bad = torch.zeros((), dtype=torch.bool, device=next(network.parameters()).device)
        self.unread: list[tuple[int, list[str], Tensor]] = []
        self.faults: list[Fault] = []  # read, but not yet returned by `check`

    def remember(self, averages: bool = False) -> Remembered:
        """Copy the buffers, which forward passes change, or with `averages` the parameters without an optimizer.

        Averages are as large as networks and change after the optimizers' step: an earlier copy would add to the peak.
        """
        parameters = (parameter.detach() for parameter in self.network.parameters() if not parameter.requires_grad)
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in parameters if averages else self.network.buffers():
            groups.setdefault(tensor.dtype, []).append(tensor)
        return [(tensors, flat(tensors)) for tensors in groups.values()]

    def judge(self, iteration: int, scalars: dict[str, Tensor], bad_gradients: Tensor) -> Tensor:
        """True, () bool on the device, if an iteration must be undone.

        Args:
            iteration: its number.
            scalars: () by name. "loss" decides; the others only show which part is not finite.
            bad_gradients: () bool, True if the gradients are not finite; decides, too.
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
        """Restore the remembered values if `bad`."""
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
        # One transfer for all: each transfer waits for the device.
        values = torch.cat([counts for *_, counts in self.unread]).tolist() if self.unread else []
        for iteration, names, _ in self.unread:
            own, values = values[: len(names)], values[len(names) :]
            wrong = [name for name, count in zip(names, own, strict=True) if count]
            # The sum and the gradients are only consequences of the parts.
            cause = [name for name in wrong if name not in (SUM, GRADIENTS)] or wrong[:1]
            if SUM in wrong or GRADIENTS in wrong:
                self.faults.append(Fault(iteration, tuple(cause)))
        self.unread.clear()


def flat(tensors: list[Tensor]) -> Tensor:
    """A copy (N,) of the values of tensors of one dtype."""
    return torch.cat([tensor.flatten() for tensor in tensors])
