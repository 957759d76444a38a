"""UniMatch V2 (Yang et al., 2024): the moving average labels two strong views with complementary dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace import seg_opr
from furnace.methods.feature_dropout import channel_factors
from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Teaching
from furnace.methods.unlabeled import Target, draw_boxes, mean_counted, teacher_predictions

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch

STUDENT, TEACHER = 1, 2


@METHODS.register("unimatch_v2")
class UniMatchV2(SemiSupervised):
    """(sup + (strong_1 + strong_2) / 2) / 2; CutMix mixes the batch with itself in reversed order."""

    trained = (STUDENT,)
    second_stream, mixes_itself = False, True
    published = {  # noqa: RUF012
        "teacher": "ema", "ema_decay": 0.996, "student_views": 2, "strong": True, "feature_dropout": 0.5,
        "confidence_threshold": 0.95, "ignore_padding": True,
    }  # fmt: skip
    known = {"teacher": ("ema",), "cutmix": (True,)}  # noqa: RUF012

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        yield Loss("sup", self.criterion(networks.logits(batch.images, STUDENT), batch.labels), 1 / 2)

        predictions = teacher_predictions(networks, batch, TEACHER, average=True)
        valid = batch.valid_0[:, 0].bool() if self.settings.ignore_padding else None
        target, views, dropout = Target(*predictions, valid), batch.students_0, self.settings.feature_dropout
        for number, view in enumerate(views):
            mask = draw_boxes(batch, number)
            images, of_view = seg_opr.cutmix(view, view.flip(0), mask), target.mixed(target.reversed(), mask)
            complement = number if len(views) > 1 else None
            factors = channel_factors(networks, batch, STUDENT, dropout, complement)
            loss = self.pseudo_loss(networks.logits(images, STUDENT, factors), *of_view)
            yield Loss(f"strong_{number + 1}", loss, self.unsup_weight / 2 / len(views))

        return Teaching({TEACHER: predictions}, scalars={"confidence": mean_counted(predictions.confidence, valid)})
