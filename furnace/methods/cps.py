"""Cross pseudo supervision (Chen et al., CVPR 2021): each network learns from the other's hard labels."""

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Outcome, SemiSupervised
from furnace.methods.unlabeled import votes_and_logits
from furnace.seg_opr.losses import mean_cross_entropy


class CPS(SemiSupervised):
    """Two networks, each with the likeliest classes of the other as labels of the unlabelled images, every pixel alike.

    Args: as in `SemiSupervised`.
    """

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        loss_sup_1 = self.criterion(network.quarter_logits(batch.images, 1), batch.labels)
        loss_sup_2 = self.criterion(network.quarter_logits(batch.images, 2), batch.labels)

        votes_1, student_1 = votes_and_logits(network, batch, 1)
        votes_2, student_2 = votes_and_logits(network, batch, 2)
        loss_cross_1 = mean_cross_entropy(student_1, votes_2.labels, whole=self.whole)
        loss_cross_2 = mean_cross_entropy(student_2, votes_1.labels, whole=self.whole)

        loss = loss_sup_1 + loss_sup_2 + self.unsup_weight * (loss_cross_1 + loss_cross_2)
        scalars = {
            "loss": loss,
            "sup_1": loss_sup_1,
            "sup_2": loss_sup_2,
            "cross_1": loss_cross_1,
            "cross_2": loss_cross_2,
            "overlap": (votes_1.labels == votes_2.labels).double().mean(),
        }
        return Outcome(loss, {name: value.detach() for name, value in scalars.items()}, {1: votes_1, 2: votes_2})
