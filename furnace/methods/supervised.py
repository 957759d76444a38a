"""The baseline: one network, labelled images only."""

from torch import nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Method, Outcome


class Supervised(Method):
    """Minimises the supervised loss of branch 1.

    Args:
        criterion: (logits, labels) to ().
    """

    branches = trained = 1
    unlabeled = False

    def __init__(self, criterion: nn.Module):
        super().__init__()
        self.criterion = criterion

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        loss = self.criterion(network.quarter_logits(batch.images, 1), batch.labels)
        return Outcome(loss, {"loss": loss.detach()})
