"""The baseline: one network, labelled images only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace.methods.method import METHODS, NO_STUDENT, Loss, Losses, Method

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch


@METHODS.register("supervised")
class Supervised(Method):
    """Minimise the supervised loss of branch 1."""

    trained = (1,)
    unlabeled = False
    students = ()
    known = NO_STUDENT

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        yield Loss("sup", self.criterion(networks.logits(batch.images, 1), batch.labels))
