"""The baseline: one network, labelled images only."""

from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.methods.method import METHODS, Loss, Losses, Method


@METHODS.register("supervised")
class Supervised(Method):
    """Minimises the supervised loss of branch 1."""

    trained = (1,)
    unlabeled = False
    student_views = ()

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        yield Loss("sup", self.criterion(networks.logits(batch.images, 1), batch.labels))
