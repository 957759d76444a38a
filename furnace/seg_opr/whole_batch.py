"""Sums over a batch that several processes share, so that the result does not depend on their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class WholeBatch:
    """A batch in one process. `furnace.engine.distributed` has the class for several processes."""

    def total(self, value: Tensor) -> Tensor:
        """Sum of `value` over the processes, in the same shape."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean of `value` over the processes. If each process divides its loss by the mean of the normaliser, the
        average that DistributedDataParallel takes equals the loss of one process with the whole batch."""
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate `value` (N,) of all processes."""
        return value


ALONE = WholeBatch()
