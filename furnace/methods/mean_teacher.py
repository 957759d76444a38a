"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), for segmentation with CutMix (French et al., BMVC 2020).

The teacher's labels are hard and every pixel counts alike, as in CPS: so the comparison of the two is one of teachers.
"""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.methods.method import Outcome, SemiSupervised
from furnace.methods.unlabeled import student_images, teacher_votes
from furnace.seg_opr.losses import mean_cross_entropy
from furnace.seg_opr.whole_batch import ALONE, WholeBatch

STUDENT, TEACHER = 1, 2


class MeanTeacher(SemiSupervised):
    """Branch 1, the student, learns from branch 2, the teacher: the exponential moving average of the student.

    The teacher has no gradients and no optimizer. Its BatchNorm statistics are averages of the student's, and it
    labels with them, as it is evaluated.

    Args:
        criterion, unsup_weight, whole, warmup: as in `SemiSupervised`.
        ema_decay: share of the teacher that stays in each iteration.
    """

    trained = 1
    reported = "2"

    def __init__(
        self,
        criterion: nn.Module,
        unsup_weight: float,
        whole: WholeBatch = ALONE,
        warmup: float = 0,
        *,
        ema_decay: float = 0.99,
    ):
        super().__init__(criterion, unsup_weight, whole, warmup)
        self.ema_decay = ema_decay

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        loss_sup = self.criterion(network.quarter_logits(batch.images, STUDENT), batch.labels)

        network.branches[TEACHER - 1].eval()
        votes = teacher_votes(network, batch, TEACHER)
        student = network.quarter_logits(student_images(batch), STUDENT)
        loss_teacher = mean_cross_entropy(student, votes.labels, whole=self.whole)

        loss = loss_sup + self.unsup_weight * loss_teacher
        scalars = {"loss": loss, "sup": loss_sup, "teacher": loss_teacher, "confidence": votes.confidence.mean()}
        return Outcome(loss, {name: value.detach() for name, value in scalars.items()}, {TEACHER: votes})

    def after_step(self, network: Network, iteration: int) -> None:
        # At the beginning the mean of all students so far: the first ones are soon forgotten.
        decay = min(1 - 1 / (iteration + 1), self.ema_decay)
        update_average(network.branches[TEACHER - 1], network.branches[STUDENT - 1], decay)


@torch.no_grad()
def update_average(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Make `teacher` decay * teacher + (1 - decay) * student, buffers included; counters are copied."""
    pairs = list(zip(teacher.state_dict().values(), student.state_dict().values(), strict=True))
    averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    get_ema_multi_avg_fn(decay)(averages, values, None)
    for count, value in pairs:
        if not count.is_floating_point():
            count.copy_(value)
