"""Contract of a training method: it turns (networks, batch) into losses. docs/methods.md shows how to add one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from furnace import seg_opr
from furnace.methods.average import decay_at, update_average
from furnace.methods.unlabeled import Students, counted_pixels, student_passes, teacher_predictions
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.names import STRONG, WEAK, Registry
from furnace.utils.setting_types import Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.seg_opr.pseudo_label import Predictions, PseudoLabels

METHODS: Registry[type[Method]] = Registry("method", __package__)
# `known` of a method without students.
NO_STUDENT = {
    "teacher": ("self",), "student_views": (1,), "strong": (False,), "feature_dropout": (0,),
    "confidence_threshold": (0,), "ignore_padding": (False,),
}  # fmt: skip


class Loss(NamedTuple):
    """One part of the total loss: `value` () times `weight` is minimised, `value` is logged as `name`."""

    name: str
    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Teaching:
    """Predictions and pseudo labels of a step, for diagnostics.

    Args:
        predictions: of each teaching branch, by its number, for the unlabelled images as mixed for the students.
        pseudo: CPCL's pseudo labels.
        scalars: () by name, logged with the losses.
    """

    predictions: dict[int, Predictions] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)


Losses = Iterator[Loss]  # a generator, which may return a `Teaching`


class Method:
    """Base of the methods.

    Attributes (of the class, or of an instance with settings) describe the needs of a method:
        `trained`: numbers of the branches with gradients and an optimizer.
        `averaged`: branches that are moving averages, {teacher: student}; the settings must then have `ema_decay`.
        `reported`: branch whose scores are reported as the method's.
        `unlabeled`: True if batches contain unlabelled images; `second_stream`: True if CutMix takes the other image
        from a second stream of unlabelled images.
        `labeled_view`: view (`furnace/datasets/views.py`) of the labelled images; `teacher_view`, `students`: views of
        the unlabelled images; `strong_view`: view of students with `C.strong`; `needs_valid`: True if the batch needs
        maps of the valid pixels.
        `mixes_itself`: True if CutMix takes the other image from the same part of the batch.
        `published`: the method's own defaults of settings, used if config.py does not assign them.
        `known`: allowed values of settings that the method restricts.
        `Settings`: the method's settings; methods may share a name with the same type and meaning.

    Args:
        criterion: supervised loss, (logits, labels) to (); None for a method that is only queried.
        settings: values of `Settings`.
        whole: how to sum over the processes that share a batch.
    """

    trained: ClassVar[tuple[int, ...]] = (1, 2)
    averaged: dict[int, int] = {}  # noqa: RUF012
    reported: str = "1"
    unlabeled: ClassVar[bool] = True
    second_stream: ClassVar[bool] = True
    labeled_view: str = WEAK
    teacher_view: str = WEAK
    strong_view: ClassVar[str] = STRONG
    students: tuple[str, ...] = (WEAK,)
    needs_valid: bool = False
    mixes_itself: ClassVar[bool] = False
    published: ClassVar[dict[str, Any]] = {}
    known: ClassVar[dict[str, tuple]] = {}

    class Settings(BaseModel):
        """No settings of its own."""

        model_config = ConfigDict(defer_build=True)  # until a method is built

    def __init__(self, criterion: nn.Module | None, settings: BaseModel | None = None, whole: WholeBatch = ALONE):
        self.criterion, self.settings, self.whole = criterion, settings or self.Settings(), whole

    def to(self, place: torch.device | torch.dtype) -> Method:
        """Move the criterion to a device or dtype; returns this method."""
        self.criterion.to(place)
        return self

    @property
    def branch_count(self) -> int:
        """Number of networks, including moving averages."""
        return len(self.trained) + len(self.averaged)

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """Initial state of the method between steps: buffers that are saved and undone with the network."""
        return {}

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        """Yield the losses of a batch, one after another.

        The learner runs the backward pass of each loss before it asks for the next. Yield a loss as soon as it is
        known, so that only one graph is in memory. The images of `batch` are normalised.
        """
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before each step with the finished share of the run, in [0, 1)."""

    def after_step(self, networks: Network, iteration: int) -> None:
        """Called after the optimizers' update of each iteration, counted from 0; updates the averages."""
        for teacher, student in self.averaged.items():
            decay = decay_at(iteration, self.settings.ema_decay)
            update_average(networks.branches[teacher - 1], networks.branches[student - 1], decay)


class SemiSupervised(Method):
    """Base of the methods that add unsupervised losses, with weight `self.unsup_weight`, to the supervised loss."""

    class Settings(Method.Settings):
        unsup_weight: float = Field(1.0, description="weight of the unsupervised losses", ge=0)
        unsup_warmup: Share = Field(0, description="share of the run in which unsup_weight rises linearly from 0")
        teacher: Literal["self", "ema"] = Field(
            "self", description="source of pseudo labels: self, or ema (the moving average of each network)"
        )
        ema_decay: Share = Field(0.99, description="teacher = ema: decay of the moving average per iteration")
        student_views: int = Field(1, ge=1, le=2, description="views per unlabelled image for each student: 1 or 2")
        strong: bool = Field(False, description="students see unlabelled images with colour jitter, grey and blur")
        feature_dropout: float = Field(
            0,
            ge=0,
            lt=1,
            description="share of encoder channels dropped in students; two views drop complementary channels",
        )
        confidence_threshold: Share = Field(0, description="pseudo labels with less confidence do not count")
        ignore_padding: bool = Field(False, description="padding of unlabelled images does not count")

    def __init__(self, criterion: nn.Module | None, settings: BaseModel | None = None, whole: WholeBatch = ALONE):
        super().__init__(criterion, settings, whole)
        own = self.settings
        self.unsup_weight = own.unsup_weight
        self.students = (self.strong_view if own.strong else WEAK,) * own.student_views
        self.needs_valid = self.needs_valid or own.ignore_padding
        if own.teacher == "ema":
            self.averaged = {len(self.trained) + branch: branch for branch in self.trained}
            self.reported = str(self.teacher_of(int(self.reported)))

    def before_step(self, progress: float) -> None:
        warmup = self.settings.unsup_warmup
        self.unsup_weight = self.settings.unsup_weight * (1 if progress >= warmup else progress / warmup)

    def teacher_of(self, branch: int) -> int:
        """The branch that labels for `branch`: its moving average, or itself."""
        return next((teacher for teacher, student in self.averaged.items() if student == branch), branch)

    def teach_and_study(self, networks: Network, batch: TrainBatch, branch: int) -> tuple[Predictions, Students]:
        """Predictions of a branch's teacher, and one function per view that returns the branch's logits (B, K, h, w).

        The function runs the student's forward pass when called. If teacher and student see the same images, they
        share one pass.
        """
        teacher, dropout = self.teacher_of(branch), self.settings.feature_dropout
        sees_the_same = batch.mask is None and batch.students_0[0] is batch.unlabeled_0
        if sees_the_same and teacher == branch and not dropout:
            logits = networks.logits(batch.unlabeled_0, branch)
            return seg_opr.predict_upsampled(logits, batch.unlabeled_0.shape[-2:]), [lambda: logits]
        predictions = teacher_predictions(networks, batch, teacher, average=teacher != branch)
        return predictions, student_passes(networks, batch, branch, dropout)

    def counted(self, batch: TrainBatch) -> Tensor | None:
        """Pixels of the mixed unlabelled images that count, (B, H, W) bool; None if all do."""
        return counted_pixels(batch) if self.settings.ignore_padding else None

    def learn(
        self,
        name: str,
        batch: TrainBatch,
        students: Students,
        labels: Tensor,
        confidence: Tensor,
        weight: Tensor | None = None,
    ) -> Losses:
        """Losses of a student's views; labels, confidence and `weight` (B, H, W), None for weight 1."""
        counted = self.counted(batch)
        for number, student in enumerate(students, 1):
            value = self.pseudo_loss(student(), labels, confidence, counted, weight)
            yield Loss(name if len(students) == 1 else f"{name}_{number}", value, self.unsup_weight / len(students))

    def pseudo_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        confidence: Tensor,
        counted: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Cross entropy () of logits (B, K, h, w), averaged over counted pixels; too low confidence counts as 0."""
        if self.settings.confidence_threshold:
            sure = (confidence >= self.settings.confidence_threshold).to(confidence.dtype)
            weight = sure if weight is None else weight * sure
        return seg_opr.weighted_cross_entropy(logits, labels, weight, counted, whole=self.whole)
