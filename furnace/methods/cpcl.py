"""Conservative-progressive collaborative learning (Fan et al., IEEE TIP 2023, doi 10.1109/TIP.2023.3242819)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from furnace import seg_opr
from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Share, Teaching

if TYPE_CHECKING:
    from torch import Tensor

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch

# Names of the losses of branch 1 and 2, and their pseudo labels.
TARGETS = {
    "both": {"inter": "intersection", "union": "union"},
    "intersection": {"unsup_1": "intersection", "unsup_2": "intersection"},
    "union": {"unsup_1": "union", "unsup_2": "union"},
}


@METHODS.register("cpcl")
class CPCL(SemiSupervised):
    """Branch 1 learns from the intersection of both branches' pseudo labels, branch 2 from their union."""

    early = False  # before `union_after`

    class Settings(SemiSupervised.Settings):
        pseudo_labels: Literal["both", "intersection", "union"] = Field(
            "both", description="cpcl: both (branch 1: intersection, branch 2: union), or one type for both branches"
        )
        union_choice: Literal["disagreement", "confidence"] = Field(
            "disagreement", description="cpcl, if branches differ: class with more disagreement, or higher confidence"
        )
        reweight: bool = Field(True, description="cpcl: weight pseudo labels by their confidence")
        union_after: Share = Field(0, description="cpcl: initial share of the run in which both use the intersection")
        disagreement_momentum: float = Field(
            0,
            ge=0,
            lt=1,
            description="cpcl: momentum of the running counts of disagreement; 0: counts of the batch only",
        )

    def before_step(self, progress: float) -> None:
        super().before_step(progress)
        self.early = progress < self.settings.union_after

    def state(self, num_classes: int) -> dict[str, Tensor]:
        import torch

        momentum = self.settings.disagreement_momentum
        return {"agreement": torch.zeros(num_classes, num_classes)} if momentum else {}

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        for branch in (1, 2):
            yield Loss(f"sup_{branch}", self.criterion(networks.logits(batch.images, branch), batch.labels))

        (first, students_1), (second, students_2) = (self.teach_and_study(networks, batch, branch) for branch in (1, 2))
        counts = seg_opr.agreement(first, second, networks.num_classes, self.counted(batch), self.whole)
        running = self.running_counts(networks, counts)
        pseudo = seg_opr.combine(first, second, counts, self.settings.union_choice, running)
        targets = TARGETS[self.settings.pseudo_labels].items()
        for students, (name, target) in zip((students_1, students_2), targets, strict=True):
            target = "intersection" if self.early else target
            labels, confidence = getattr(pseudo, target), getattr(pseudo, f"weight_{target}")
            weight = confidence if self.settings.reweight else None
            yield from self.learn(name, batch, students, labels, confidence, weight)

        return Teaching({1: first, 2: second}, pseudo, {"overlap": pseudo.overlap})

    def running_counts(self, networks: Network, counts: Tensor) -> Tensor | None:
        """Moving average (K, K) of the counts of both branches' labels; None: use the counts of the batch."""
        momentum = self.settings.disagreement_momentum
        if not momentum:
            return None
        return networks.agreement.mul_(momentum).add_(seg_opr.exact(counts), alpha=1 - momentum)
