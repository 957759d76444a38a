"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), for segmentation with CutMix (French et al., BMVC 2020).

The teacher's labels are hard and every pixel counts alike, as in CPS: so the comparison of the two is one of teachers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from furnace import seg_opr
from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Share, Teaching
from furnace.methods.unlabeled import student_images, teacher_predictions

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch

STUDENT, TEACHER = 1, 2


@METHODS.register("mean_teacher")
class MeanTeacher(SemiSupervised):
    """Branch 1, the student, learns from branch 2, the teacher: the exponential moving average of the student.

    The teacher has no gradients and no optimizer. Its BatchNorm statistics are averages of the student's, and it
    labels with them, as it is evaluated.
    """

    trained = (STUDENT,)
    averaged = {TEACHER: STUDENT}  # noqa: RUF012
    reported = str(TEACHER)

    class Settings(SemiSupervised.Settings):
        ema_decay: Share = Field(0.99, description="mean_teacher: share of the teacher that stays in each iteration")

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        yield Loss("sup", self.criterion(networks.logits(batch.images, STUDENT), batch.labels))

        networks.branches[TEACHER - 1].eval()
        predictions = teacher_predictions(networks, batch, TEACHER)
        logits = networks.logits(student_images(batch), STUDENT)
        loss = seg_opr.mean_cross_entropy(logits, predictions.labels, whole=self.whole)
        yield Loss("teacher", loss, self.unsup_weight)

        return Teaching({TEACHER: predictions}, scalars={"confidence": predictions.confidence.mean()})
