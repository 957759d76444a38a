"""Conservative-progressive collaborative learning (Fan et al., IEEE TIP 2023, doi 10.1109/TIP.2023.3242819)."""

import torch
from torch import nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Method, Outcome
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import Votes, combine, cutmix, vote_mixed
from furnace.seg_opr.whole_batch import ALONE, WholeBatch


class CPCL(Method):
    """Branch 1 learns from the intersection of both branches' pseudo labels, branch 2 from their union.

    Args:
        criterion: supervised loss, (logits, labels) to ().
        unsup_weight: weight of the two unsupervised losses.
        whole: how to sum over the processes that share the batch.
    """

    def __init__(self, criterion: nn.Module, unsup_weight: float, whole: WholeBatch = ALONE):
        super().__init__()
        self.criterion, self.unsup_weight, self.whole = criterion, unsup_weight, whole

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        loss_sup_1 = self.criterion(network.quarter_logits(batch.images, 1), batch.labels)
        loss_sup_2 = self.criterion(network.quarter_logits(batch.images, 2), batch.labels)

        with torch.no_grad():
            votes_1, votes_2 = teacher_votes(network, batch, 1), teacher_votes(network, batch, 2)
            pseudo = combine(votes_1, votes_2, network.num_classes, self.whole)

        mixed = cutmix(batch.unlabeled_0, batch.unlabeled_1, batch.mask)
        student_1, student_2 = network.quarter_logits(mixed, 1), network.quarter_logits(mixed, 2)
        loss_inter = weighted_cross_entropy(
            student_1, pseudo.intersection, pseudo.weight_intersection, whole=self.whole
        )
        loss_union = weighted_cross_entropy(student_2, pseudo.union, pseudo.weight_union, whole=self.whole)

        loss = loss_sup_1 + loss_sup_2 + self.unsup_weight * (loss_inter + loss_union)
        scalars = {
            "loss": loss,
            "sup_1": loss_sup_1,
            "sup_2": loss_sup_2,
            "inter": loss_inter,
            "union": loss_union,
            "overlap": pseudo.overlap,
        }
        return Outcome(loss, {name: value.detach() for name, value in scalars.items()}, pseudo)


def teacher_votes(network: Network, batch: TrainBatch, branch: int) -> Votes:
    """One branch's labels of the mixed unlabelled images, from its logits of each, mixed as the images will be.

    Two passes, not one of twice the size: in training mode BatchNorm sees each batch on its own.
    """
    logits_u0 = network.quarter_logits(batch.unlabeled_0, branch)
    logits_u1 = network.quarter_logits(batch.unlabeled_1, branch)
    return vote_mixed(logits_u0, logits_u1, batch.mask)
