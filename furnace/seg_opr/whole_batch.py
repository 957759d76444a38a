"""Sums over a batch that several processes share, so that the result does not depend on their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class WholeBatch:
    """A batch that one process holds alone. `furnace.engine.distributed` has the one for many."""

    def total(self, value: Tensor) -> Tensor:
        """Sum of every process's `value`, the same shape."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes. A loss divided by the mean of its normaliser has, averaged over the processes as
        DistributedDataParallel averages gradients, the value that one process would compute."""
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Every process's `value` (N,), one after another."""
        return value


ALONE = WholeBatch()
