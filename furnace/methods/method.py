"""What a training method is: it turns (network, batch) into losses."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.seg_opr.pseudo_label import PseudoLabels


@dataclass
class Outcome:
    """What one step gives: `loss` () to minimise, `scalars` () by name to show, and the pseudo labels if any."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None


class Method(nn.Module):
    """Base of the methods.

    `branches` networks are trained, each with its own optimizer; `unlabeled` says whether the batches hold
    unlabelled images. `forward(network, batch)` gives the `Outcome`, the images being normalised.
    """

    branches = 2
    unlabeled = True

    def forward(self, network: Network, batch: TrainBatch) -> Outcome:
        raise NotImplementedError
