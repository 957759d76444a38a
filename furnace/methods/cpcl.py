"""Conservative-progressive collaborative learning (Fan et al., IEEE TIP 2023, doi 10.1109/TIP.2023.3242819)."""

import torch
from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Outcome, SemiSupervised
from furnace.methods.unlabeled import votes_and_logits
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import PseudoLabels, combine
from furnace.seg_opr.whole_batch import ALONE, WholeBatch

# What branch 1 and branch 2 learn from.
TARGETS = {
    "both": ("intersection", "union"),
    "intersection": ("intersection", "intersection"),
    "union": ("union", "union"),
}


class CPCL(SemiSupervised):
    """Branch 1 learns from the intersection of both branches' pseudo labels, branch 2 from their union.

    Args:
        criterion, unsup_weight, whole, warmup: as in `SemiSupervised`.
        pseudo_labels: "both" as above; "intersection" or "union" gives both branches the same.
        union_choice: see `combine`.
        reweight: weight the pixels by the confidence of their pseudo labels, else all alike.
    """

    def __init__(
        self,
        criterion: nn.Module,
        unsup_weight: float,
        whole: WholeBatch = ALONE,
        warmup: float = 0,
        *,
        pseudo_labels: str = "both",
        union_choice: str = "disagreement",
        reweight: bool = True,
    ):
        super().__init__(criterion, unsup_weight, whole, warmup)
        self.targets, self.union_choice, self.reweight = TARGETS[pseudo_labels], union_choice, reweight

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        loss_sup_1 = self.criterion(network.quarter_logits(batch.images, 1), batch.labels)
        loss_sup_2 = self.criterion(network.quarter_logits(batch.images, 2), batch.labels)

        votes_1, student_1 = votes_and_logits(network, batch, 1)
        votes_2, student_2 = votes_and_logits(network, batch, 2)
        pseudo = combine(votes_1, votes_2, network.num_classes, self.whole, self.union_choice)
        loss_unsup_1 = self.pseudo_loss(student_1, pseudo, self.targets[0])
        loss_unsup_2 = self.pseudo_loss(student_2, pseudo, self.targets[1])

        loss = loss_sup_1 + loss_sup_2 + self.unsup_weight * (loss_unsup_1 + loss_unsup_2)
        names = ("inter", "union") if self.targets == TARGETS["both"] else ("unsup_1", "unsup_2")
        scalars = {
            "loss": loss,
            "sup_1": loss_sup_1,
            "sup_2": loss_sup_2,
            names[0]: loss_unsup_1,
            names[1]: loss_unsup_2,
            "overlap": pseudo.overlap,
        }
        scalars = {name: value.detach() for name, value in scalars.items()}
        return Outcome(loss, scalars, {1: votes_1, 2: votes_2}, pseudo)

    def pseudo_loss(self, logits: Tensor, pseudo: PseudoLabels, target: str) -> Tensor:
        """Loss () of a student's logits (B, K, h, w) against the labels `target`, "intersection" or "union"."""
        labels, weight = getattr(pseudo, target), getattr(pseudo, f"weight_{target}")
        if not self.reweight:
            weight = torch.ones_like(weight)
        return weighted_cross_entropy(logits, labels, weight, whole=self.whole)
