"""Conservative-progressive collaborative learning (Fan et al., IEEE TIP 2023, doi 10.1109/TIP.2023.3242819)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from furnace import seg_opr
from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Teaching
from furnace.methods.unlabeled import teach_and_study

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.seg_opr.pseudo_label import PseudoLabels

# Names of the losses of branch 1 and 2, and their pseudo labels.
TARGETS = {
    "both": {"inter": "intersection", "union": "union"},
    "intersection": {"unsup_1": "intersection", "unsup_2": "intersection"},
    "union": {"unsup_1": "union", "unsup_2": "union"},
}


@METHODS.register("cpcl")
class CPCL(SemiSupervised):
    """Branch 1 learns from the intersection of both branches' pseudo labels, branch 2 from their union."""

    class Settings(SemiSupervised.Settings):
        pseudo_labels: Literal["both", "intersection", "union"] = Field(
            "both", description="cpcl: both (intersection for branch 1, union for branch 2), or one for both branches"
        )
        union_choice: Literal["disagreement", "confidence"] = Field(
            "disagreement", description="cpcl, if branches differ: class in more disagreement, or surer branch"
        )
        reweight: bool = Field(True, description="cpcl: weight pseudo labels by their confidence")

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        for branch in (1, 2):
            yield Loss(f"sup_{branch}", self.criterion(networks.logits(batch.images, branch), batch.labels))

        (first, study_1), (second, study_2) = (teach_and_study(networks, batch, branch) for branch in (1, 2))
        pseudo = seg_opr.combine(first, second, networks.num_classes, self.whole, self.settings.union_choice)
        targets = TARGETS[self.settings.pseudo_labels].items()
        for study, (name, target) in zip((study_1, study_2), targets, strict=True):
            yield Loss(name, self.pseudo_loss(study(), pseudo, target), self.unsup_weight)

        return Teaching({1: first, 2: second}, pseudo, {"overlap": pseudo.overlap})

    def pseudo_loss(self, logits: Tensor, pseudo: PseudoLabels, target: str) -> Tensor:
        """Loss () of a student's logits (B, K, h, w) against the labels `target`, "intersection" or "union"."""
        labels, weight = getattr(pseudo, target), getattr(pseudo, f"weight_{target}")
        if not self.settings.reweight:
            weight = weight.new_ones(weight.shape)
        return seg_opr.weighted_cross_entropy(logits, labels, weight, whole=self.whole)
