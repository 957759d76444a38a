"""UniMatch (Yang et al., CVPR 2023): labels of weak views train strong views and perturbed features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace import seg_opr
from furnace.methods.feature_dropout import channel_factors
from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Teaching
from furnace.methods.unlabeled import Target, draw_boxes, mean_counted

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch


@METHODS.register("unimatch")
class UniMatch(SemiSupervised):
    """(sup + strong_1 / 4 + strong_2 / 4 + dropout / 2) / 2; each strong view has its own CutMix box.

    The weak view is labelled in one batch with the labelled images; the labels of its CutMix partner come from eval
    mode. Without feature dropout the strong views share the whole unsupervised weight.
    """

    trained = (1,)
    published = {  # noqa: RUF012
        "student_views": 2, "strong": True, "feature_dropout": 0.5, "confidence_threshold": 0.95,
        "ignore_padding": True,
    }  # fmt: skip
    known = {"teacher": ("self",)}  # noqa: RUF012

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        import torch

        partner = self.partner(networks, batch)
        images = torch.cat([batch.images, batch.unlabeled_0])
        labeled, weak = networks.logits(images).tensor_split([len(batch.images)])
        yield Loss("sup", self.criterion(labeled, batch.labels), 1 / 2)

        target, dropout, views = self.target(weak.detach(), batch, 0), self.settings.feature_dropout, batch.students_0
        share = self.unsup_weight / 2 / (2 if dropout else 1)
        for number, view in enumerate(views):
            of_view = target
            if partner is not None:
                mask = draw_boxes(batch, number)
                view, of_view = seg_opr.cutmix(view, batch.students_1[number], mask), target.mixed(partner, mask)
            loss = self.pseudo_loss(networks.logits(view), *of_view)
            yield Loss(f"strong_{number + 1}", loss, share / len(views))
        if dropout:
            factors = channel_factors(networks, batch, 1, dropout)
            yield Loss("dropout", self.pseudo_loss(networks.logits(batch.unlabeled_0, 1, factors), *target), share)

        shown = target if partner is None else target.mixed(partner, batch.mask)
        return Teaching({1: seg_opr.Predictions(*shown[:2])}, scalars={"confidence": mean_counted(*target[1:])})

    def partner(self, networks: Network, batch: TrainBatch) -> Target | None:
        """Target of the second stream, from eval mode; None without CutMix."""
        import torch

        if batch.mask is None:
            return None
        network = networks.branches[0].eval()
        with torch.no_grad():
            logits = networks.logits(batch.unlabeled_1)
        network.train()
        return self.target(logits, batch, 1)

    def target(self, logits: Tensor, batch: TrainBatch, stream: int) -> Target:
        """Target of the weak view of a stream, from its logits (B, K, h, w)."""
        valid = getattr(batch, f"valid_{stream}")[:, 0].bool() if self.settings.ignore_padding else None
        return Target(*seg_opr.predict_upsampled(logits, batch.unlabeled_0.shape[-2:]), valid)
