"""One training step: losses, gradients and the update of the networks, in any number of processes."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.engine.distributed import world_size
from furnace.engine.optim import build_optimizer, poly_lr
from furnace.methods.method import Method, Outcome

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


class Objective(nn.Module):
    """Network and method as one module: a single forward pass from batch to losses, which is what
    DistributedDataParallel can wrap."""

    def __init__(self, network: Network, method: Method):
        super().__init__()
        self.network, self.method = network, method

    def forward(self, batch: TrainBatch) -> Outcome:
        return self.method(self.network, batch)


class Learner:
    """The networks with an optimizer for each that is trained, and the learning-rate policy.

    Args:
        network: on its device.
        method: what to minimise.
        lr, lr_power, momentum, weight_decay: as in the settings.
        total_iterations: of the whole run, for the policy.
        amp: "bf16", "fp16" (with loss scaling) or "off".
        accumulate: parts into which a batch is cut; their gradients are averaged.
        compiled: run the networks through torch.compile.
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
        amp: str = "off",
        accumulate: int = 1,
        compiled: bool = False,
    ):
        self.network, self.method = network, method
        self.device = next(network.parameters()).device
        self.amp, self.accumulate = AMP_DTYPES[amp], accumulate
        self.lr, self.lr_power, self.total_iterations = lr, lr_power, total_iterations
        trained = network.branches[: method.trained]
        self.optimizers = [build_optimizer(branch, lr, momentum, weight_decay) for branch in trained]
        for branch in network.branches[method.trained :]:
            branch.requires_grad_(False)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        if compiled:
            # Where compiling fails the code runs as it is, and torch logs why.
            torch._dynamo.config.suppress_errors = True
            for branch in network.branches:
                branch.compile()
        self.objective = Objective(network, method)
        if world_size() > 1:
            # Buffers need no broadcast: synchronised BatchNorm keeps them the same everywhere.
            self.objective = DistributedDataParallel(self.objective, broadcast_buffers=False)

    def step(self, batch: TrainBatch, iteration: int) -> Outcome:
        """Update the networks on a normalised batch, with the learning rate of `iteration`."""
        self.network.train()
        self.method.train()
        self.method.before_step(iteration / self.total_iterations)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

        parts = batch.split(self.accumulate)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last or world_size() == 1 else self.objective.no_sync():
                with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                    outcome = self.objective(part)
                self.scaler.scale(outcome.loss / len(parts)).backward()

        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(iteration)
            self.scaler.step(optimizer)
        self.scaler.update()
        self.method.after_step(self.network, iteration)
        return outcome

    def learning_rate(self, iteration: int) -> float:
        return poly_lr(self.lr, iteration, self.total_iterations, self.lr_power)
