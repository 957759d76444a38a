"""What a training method is: it turns (network, batch) into losses."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.seg_opr.pseudo_label import PseudoLabels, Votes
from furnace.seg_opr.whole_batch import ALONE, WholeBatch


@dataclass
class Outcome:
    """What one step gives.

    `loss` () to minimise, `scalars` () by name to show; for pictures, what each branch that teaches says of the
    unlabelled images as the students see them, by its number, and CPCL's pseudo labels if any.
    """

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)
    votes: dict[int, Votes] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None


class Method(nn.Module):
    """Base of the methods; docs/methods.md shows how to add one.

    `branches` networks there are, of which the first `trained` have an optimizer and gradients; the others begin as
    copies of the first. `unlabeled` says whether the batches hold unlabelled images. `reported` is the branch whose
    scores are the method's. `forward(network, batch)` gives the `Outcome`, the images being normalised.
    """

    branches = 2
    trained = 2
    unlabeled = True
    reported = "1"

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before each step with the share of the run that is done, in [0, 1)."""

    def after_step(self, network: Network, iteration: int) -> None:
        """Called after the optimizers' update of each iteration, from 0."""


class SemiSupervised(Method):
    """Base of the methods that add unsupervised losses to the supervised one.

    Args:
        criterion: supervised loss, (logits, labels) to ().
        unsup_weight: weight of the unsupervised losses.
        whole: how to sum over the processes that share the batch.
        warmup: share of the run over which that weight rises linearly from 0.
    """

    def __init__(self, criterion: nn.Module, unsup_weight: float, whole: WholeBatch = ALONE, warmup: float = 0):
        super().__init__()
        self.criterion, self.full_weight, self.whole, self.warmup = criterion, unsup_weight, whole, warmup
        self.unsup_weight = unsup_weight

    def before_step(self, progress: float) -> None:
        risen = 1 if progress >= self.warmup else progress / self.warmup
        self.unsup_weight = self.full_weight * risen
