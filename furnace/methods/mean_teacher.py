"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), for segmentation with CutMix (French et al., BMVC 2020).

As in CPS, labels are hard and all pixels have weight 1, so a comparison of the two methods compares their teachers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from furnace.methods.method import METHODS, Loss, Losses, SemiSupervised, Teaching
from furnace.methods.unlabeled import mean_counted

if TYPE_CHECKING:
    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch

STUDENT, TEACHER = 1, 2


@METHODS.register("mean_teacher")
class MeanTeacher(SemiSupervised):
    """Branch 1, the student, learns from branch 2, the teacher, which is the student's exponential moving average.

    The teacher has no gradients and no optimizer. Its BatchNorm statistics are averages of the student's; labelling
    uses them, as evaluation does.
    """

    trained = (STUDENT,)
    published = {"teacher": "ema"}  # noqa: RUF012
    known = {"teacher": ("ema",)}  # noqa: RUF012

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        yield Loss("sup", self.criterion(networks.logits(batch.images, STUDENT), batch.labels))

        predictions, students = self.teach_and_study(networks, batch, STUDENT)
        yield from self.learn("teacher", batch, students, *predictions)

        confidence = mean_counted(predictions.confidence, self.counted(batch))
        return Teaching({TEACHER: predictions}, scalars={"confidence": confidence})
