"""Cross pseudo supervision (Chen et al., CVPR 2021): each network learns from the other's hard labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Teaching
from furnace.methods.unlabeled import mean_counted

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch


@METHODS.register("cps")
class CPS(SemiSupervised):
    """Two networks; each learns the other's likeliest classes of the unlabelled images. All pixels have weight 1."""

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        for branch in (1, 2):
            yield Loss(f"sup_{branch}", self.criterion(networks.logits(batch.images, branch), batch.labels))

        (first, students_1), (second, students_2) = (self.teach_and_study(networks, batch, branch) for branch in (1, 2))
        yield from self.learn("cross_1", batch, students_1, *second)
        yield from self.learn("cross_2", batch, students_2, *first)

        overlap = mean_counted(first.labels == second.labels, self.counted(batch))
        return Teaching({1: first, 2: second}, scalars={"overlap": overlap})
