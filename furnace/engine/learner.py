"""One training step: losses, gradients and the update of both networks."""

from torch import nn

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.engine.optim import build_optimizer, poly_lr
from furnace.methods.method import Method, Outcome


class Objective(nn.Module):
    """Network and method as one module: a single forward pass from batch to losses."""

    def __init__(self, network: Network, method: Method):
        super().__init__()
        self.network, self.method = network, method

    def forward(self, batch: TrainBatch) -> Outcome:
        return self.method(self.network, batch)


class Learner:
    """The networks with their optimizers, one each, and the learning-rate policy.

    Args:
        network: on its device.
        method: what to minimise.
        lr, lr_power, momentum, weight_decay: as in the settings.
        total_iterations: of the whole run, for the policy.
    """

    def __init__(
        self,
        network: Network,
        method: Method,
        *,
        lr: float,
        lr_power: float,
        momentum: float,
        weight_decay: float,
        total_iterations: int,
    ):
        self.network = network
        self.objective = Objective(network, method)
        self.optimizers = [build_optimizer(branch, lr, momentum, weight_decay) for branch in network.branches]
        self.lr, self.lr_power, self.total_iterations = lr, lr_power, total_iterations

    def step(self, batch: TrainBatch, iteration: int) -> Outcome:
        """Update the networks on a normalised batch, with the learning rate of `iteration`."""
        self.network.train()
        outcome = self.objective(batch)

        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()

        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(iteration)
            optimizer.step()
        return outcome

    def learning_rate(self, iteration: int) -> float:
        return poly_lr(self.lr, iteration, self.total_iterations, self.lr_power)
