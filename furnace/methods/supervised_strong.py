"""A stronger baseline: only labelled images, with the strong view and the CutMix boxes of UniMatch's students."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace import seg_opr
from furnace.methods.method import METHODS, NO_STUDENT, Loss, Losses
from furnace.methods.supervised import Supervised
from furnace.methods.unlabeled import draw_boxes
from furnace.utils.names import STRONG

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch


@METHODS.register("supervised_strong")
class SupervisedStrong(Supervised):
    """Measures the effect of augmentation alone; CutMix mixes the batch with itself in reversed order."""

    labeled_view, mixes_itself = STRONG, True
    known = NO_STUDENT | {"cutmix": (True,)}

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        mask = draw_boxes(batch)
        images = seg_opr.cutmix(batch.images, batch.images.flip(0), mask)
        labels = seg_opr.cutmix(batch.labels, batch.labels.flip(0), mask[:, 0])
        yield Loss("sup", self.criterion(networks.logits(images, 1), labels))
