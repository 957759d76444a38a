"""One training step: losses, gradients and the update of the networks, in any number of processes."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainBatch
from furnace.engine.distributed import whole_batch, world_size
from furnace.engine.guard import Guard
from furnace.engine.numerics import autocast, chosen_amp, chosen_compile, set_precision
from furnace.engine.optim import build_optimizer, poly_lr
from furnace.methods.build import build_method
from furnace.methods.method import Method, Outcome
from furnace.utils.settings import Settings


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
        freeze: after an iteration that is not finite nothing changes any more; otherwise it alone is skipped.

    `guard` says which iterations were not finite; `intact` whether the state is that between two iterations.
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
        freeze: bool = True,
    ):
        self.network, self.method = network, method
        self.device = next(network.parameters()).device
        self.amp, self.accumulate = amp, accumulate
        set_precision(amp)
        self.lr, self.lr_power, self.total_iterations = lr, lr_power, total_iterations
        trained = network.branches[: method.trained]
        self.optimizers = [build_optimizer(branch, lr, momentum, weight_decay) for branch in trained]
        for branch in network.branches[method.trained :]:
            branch.requires_grad_(False)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.guard, self.intact = Guard(network, whole_batch(), freeze), True
        if compiled:
            # Where compiling fails the code runs as it is, and torch logs why; the backward pass must be compiled
            # together with the forward pass for that.
            torch._dynamo.config.suppress_errors = True
            torch._functorch.config.force_non_lazy_backward_lowering = True
            for branch in network.branches:
                branch.compile()
        self.objective = Objective(network, method)
        if world_size() > 1:
            # Buffers need no broadcast: synchronised BatchNorm keeps them the same everywhere, and without it, each
            # process has statistics of its own share, of which the first one's are saved.
            # PyTorch has renamed the argument.
            known = inspect.signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            self.objective = DistributedDataParallel(self.objective, **{name: False})

    def step(self, batch: TrainBatch, iteration: int) -> Outcome:
        """Update the networks on a normalised batch, with the learning rate of `iteration`.

        Returns:
            loss and scalars as means over the batch's parts; the rest, for pictures, is that of the last part.
        """
        self.network.train()
        self.method.train()
        self.method.before_step(iteration / self.total_iterations)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

        before = self.guard.remember()
        try:
            outcomes = self._backward(batch)
        except Exception:
            # The forward passes have touched the BatchNorm statistics: without them the state is fit to be saved.
            self.guard.undo(before)
            raise
        # Scaled gradients may overflow; the scaler skips those by itself.
        gradients = [] if self.scaler.is_enabled() else [p.grad for p in self._parameters() if p.grad is not None]
        bad = self.guard.judge(iteration, outcomes, gradients)
        self.intact = False
        self._update(iteration, bad)
        self.method.after_step(self.network, iteration)
        self.guard.undo(before, bad)
        self.intact = True
        return average(outcomes)

    def _backward(self, batch: TrainBatch) -> list[Outcome]:
        """Accumulate the gradients of the batch's parts."""
        parts, outcomes = batch.split(self.accumulate), []
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last or world_size() == 1 else self.objective.no_sync():
                with autocast(self.device, self.amp):
                    outcome = self.objective(part)
                loss = outcome.loss / len(parts)
                if self.scaler.is_enabled():
                    # A scaler skips what isn't finite: so it stays frozen without asking the device.
                    loss = loss * torch.where(self.guard.frozen(), torch.nan, 1.0)
                self.scaler.scale(loss).backward()
            outcomes.append(outcome)
        return outcomes

    def _update(self, iteration: int, bad: Tensor) -> None:
        """Let the optimizers step, unless the iteration is `bad`."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(iteration)
            if self.scaler.is_enabled():
                self.scaler.step(optimizer)
            elif optimizer.defaults["fused"]:
                # As a GradScaler does: the kernel itself looks at the flag, so that nobody waits for it.
                optimizer.grad_scale, optimizer.found_inf = None, bad.float()
                optimizer.step()
            elif not bad:
                optimizer.step()
        self.scaler.update()

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"])

    def learning_rate(self, iteration: int) -> float:
        return poly_lr(self.lr, iteration, self.total_iterations, self.lr_power)


def average(outcomes: list[Outcome]) -> Outcome:
    """The last of the outcomes of a batch's equal parts, with the means of all of them as loss and scalars."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        return torch.stack([value.detach() for value in values]).mean()

    scalars = {name: mean(outcome.scalars[name] for outcome in outcomes) for name in outcomes[0].scalars}
    return replace(outcomes[-1], loss=mean(outcome.loss for outcome in outcomes), scalars=scalars)


def build_learner(C: Settings, network: Network, **options: Any) -> Learner:
    """The learner that the settings describe, for a network on its device; `options` replace what they say."""
    device = next(network.parameters()).device
    described = {
        "lr": C.lr,
        "lr_power": C.lr_power,
        "momentum": C.momentum,
        "weight_decay": C.weight_decay,
        "total_iterations": C.nepochs * C.niters_per_epoch,
        "amp": chosen_amp(C.amp, device),
        "accumulate": C.accumulate,
        "compiled": chosen_compile(C.compile, device, C.sync_bn and world_size() > 1),
        "freeze": C.on_nan == "stop",
    }
    return Learner(network, build_method(C, whole_batch()).to(device), **(described | options))
