"""The contract of a training method: it turns (networks, batch) into losses. docs/methods.md shows how to add one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from furnace.methods.average import decay_at, update_average
from furnace.seg_opr.whole_batch import ALONE, WholeBatch
from furnace.utils.names import WEAK, EntryOf, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from furnace.base_model.network import Network
    from furnace.datasets.batch import TrainBatch
    from furnace.seg_opr.pseudo_label import Predictions, PseudoLabels

METHODS: Registry[type[Method]] = Registry("method", __package__)
Share = Annotated[float, Field(ge=0, le=1)]


class Loss(NamedTuple):
    """One part of the total loss: `value` () times `weight` is minimised, `value` is logged as `name`."""

    name: str
    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Teaching:
    """Predictions and pseudo labels of a step, to look at.

    Args:
        predictions: of each branch that teaches, by its number, for the unlabelled images as the students see them.
        pseudo: CPCL's pseudo labels.
        scalars: () by name, logged beside the losses.
    """

    predictions: dict[int, Predictions] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)


Losses = Iterator[Loss]  # a generator, which may return a `Teaching`


class Method:
    """Base of the methods.

    Class attributes describe what a method needs:
        `trained`: numbers of the branches with gradients and an optimizer.
        `averaged`: branches that are moving averages, {teacher: student}; `ema_decay` is then one of the settings.
        `reported`: branch whose scores are the method's.
        `unlabeled`: whether the batches hold unlabelled images.
        `labeled_view`, `teacher_view`, `student_views`: views (`furnace/datasets/views.py`) of the labelled images, and
        of the unlabelled ones; `needs_valid`: whether the batch brings the maps of their valid pixels.
        `Settings`: the method's own settings; a name may serve several methods, with one type and meaning.

    Args:
        criterion: supervised loss, (logits, labels) to ().
        settings: values of `Settings`.
        whole: sums over the processes that share a batch.
    """

    trained: ClassVar[tuple[int, ...]] = (1, 2)
    averaged: ClassVar[dict[int, int]] = {}
    reported: ClassVar[str] = "1"
    unlabeled: ClassVar[bool] = True
    labeled_view: str = WEAK
    teacher_view: str = WEAK
    student_views: tuple[str, ...] = (WEAK,)
    needs_valid: bool = False

    class Settings(BaseModel):
        """No settings of its own."""

        model_config = ConfigDict(defer_build=True)  # until a method is built

    def __init__(self, criterion: nn.Module, settings: BaseModel | None = None, whole: WholeBatch = ALONE):
        self.criterion, self.settings, self.whole = criterion, settings or self.Settings(), whole

    def to(self, place: torch.device | torch.dtype) -> Method:
        """This method, its tensors moved to a device or dtype."""
        self.criterion.to(place)
        return self

    @classmethod
    def branches(cls) -> int:
        """Number of networks, those that are averages included."""
        return len(cls.trained) + len(cls.averaged)

    def losses(self, networks: Network, batch: TrainBatch) -> Losses:
        """Yield the losses of a batch, one after another.

        The learner takes the backward pass of each before it asks for the next: yield a loss as soon as it is known,
        so that the graph of one forward pass lives at a time. The images of `batch` are normalised.
        """
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before each step with the share of the run that is done, in [0, 1)."""

    def after_step(self, networks: Network, iteration: int) -> None:
        """Called after the optimizers' update of each iteration, from 0: moves the averages."""
        for teacher, student in self.averaged.items():
            decay = decay_at(iteration, self.settings.ema_decay)
            update_average(networks.branches[teacher - 1], networks.branches[student - 1], decay)


class SemiSupervised(Method):
    """Base of the methods that add unsupervised losses, of `self.unsup_weight`, to the supervised one."""

    class Settings(Method.Settings):
        unsup_weight: float = Field(1.0, description="weight of the unsupervised losses", ge=0)
        unsup_warmup: Share = Field(0, description="share of the run over which that weight rises linearly from 0")
        student_view: Annotated[str, EntryOf("furnace.datasets.views:VIEWS")] = Field(
            WEAK, description="view that students see of unlabelled images: weak, strong"
        )

    def __init__(self, criterion: nn.Module, settings: BaseModel | None = None, whole: WholeBatch = ALONE):
        super().__init__(criterion, settings, whole)
        self.unsup_weight = self.settings.unsup_weight
        self.student_views = (self.settings.student_view,)

    def before_step(self, progress: float) -> None:
        warmup = self.settings.unsup_warmup
        self.unsup_weight = self.settings.unsup_weight * (1 if progress >= warmup else progress / warmup)
