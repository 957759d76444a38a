"""Conservative-progressive collaborative learning (Fan et al., IEEE TIP 2023, doi 10.1109/TIP.2023.3242819)."""

import torch
from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Method, Outcome
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import make_pseudo_labels
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
        loss_sup_1 = self.criterion(network(batch.images, 1), batch.labels)
        loss_sup_2 = self.criterion(network(batch.images, 2), batch.labels)

        with torch.no_grad():
            teachers = [teacher_logits(network, batch, branch) for branch in (1, 2)]
            pseudo = make_pseudo_labels(*teachers, whole=self.whole)

        mixed = cutmix(batch.unlabeled_0, batch.unlabeled_1, batch.mask)
        loss_inter = weighted_cross_entropy(
            network(mixed, 1), pseudo.intersection, pseudo.weight_intersection, whole=self.whole
        )
        loss_union = weighted_cross_entropy(network(mixed, 2), pseudo.union, pseudo.weight_union, whole=self.whole)

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


def teacher_logits(network: Network, batch: TrainBatch, branch: int) -> Tensor:
    """One branch's logits (B, K, H, W) of both unlabelled images, mixed as the images will be.

    Two passes, not one of twice the size: in training mode BatchNorm sees each batch on its own.
    """
    return cutmix(network(batch.unlabeled_0, branch), network(batch.unlabeled_1, branch), batch.mask)


def cutmix(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """`inside` (B, C, H, W) where the mask (B, 1, H, W) is 1, `outside` where it is 0."""
    return torch.where(mask.bool(), inside, outside)
