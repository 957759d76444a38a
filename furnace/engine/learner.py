"""One training step: losses, gradients and the update of the networks, in any number of processes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from furnace.base_model.network import Network
from furnace.base_model.recompute import recompute_blocks
from furnace.base_model.shortcuts import use_shortcuts
from furnace.datasets.batch import TrainBatch
from furnace.engine.compilation import OFF, REDUCE_OVERHEAD, chosen_compile, compile_networks
from furnace.engine.distributed import average_in_place, share_weights, whole_batch, world_size
from furnace.engine.guard import SUM, Guard
from furnace.engine.internals import step_unless
from furnace.engine.numerics import LossScale, autocast, choose_amp, set_precision
from furnace.engine.optim import build_optimizer, parameters, poly_lr, set_learning_rate
from furnace.methods.build import build_method
from furnace.methods.contract import checked_loss, checked_losses, checked_teaching
from furnace.methods.method import Method, Teaching
from furnace.utils.settings import Settings


@dataclass(frozen=True)
class StepOutput:
    """Output of one step: `scalars` () by name ("loss" is the total), and the `teaching` of the last part."""

    scalars: dict[str, Tensor]
    teaching: Teaching = field(default_factory=Teaching)


class Learner:
    """The networks, one optimizer per trained network, and the learning-rate policy.

    Args:
        network: on its device.
        method: computes the losses.
        total_iterations: of the whole run, for the learning-rate policy.
        lr, lr_power: arguments of this policy.
        optimizer: name and arguments for `build_optimizer`, without the learning rate.
        amp: "bf16", "fp16" (with loss scaling) or "off".
        accumulate: number of parts into which a batch is split; their gradients are averaged.
        checkpoint: recompute the encoders' blocks in the backward pass, to save memory.
        compiled: compile the networks with torch.compile.
        graphs: use CUDA graphs, if `compiled`.
        freeze: nothing changes after an iteration that is not finite; otherwise only this iteration is skipped.

    Raises:
        UserError: `checkpoint` is set, and an encoder has no repeated blocks.

    `guard` reports the iterations that were not finite; `intact` is False during an update of the networks; `compiled`
    tells whether the networks are, or will be in the next step.
    """

    def __init__(
        self,
        network: Network,
        method: Method,
        *,
        total_iterations: int,
        lr: float,
        lr_power: float = 0.9,
        optimizer: dict[str, Any] | None = None,
        amp: str = "off",
        accumulate: int = 1,
        checkpoint: bool = False,
        compiled: bool = False,
        graphs: bool = False,
        freeze: bool = True,
    ):
        self.network, self.method = network, method
        self.device = next(network.parameters()).device
        self.amp, self.accumulate = amp, accumulate
        self.compiled, self.graphs = False, compiled and graphs
        set_precision(amp)
        use_shortcuts(network, self.device.type == "cpu")
        share_weights(network)
        self.lr, self.lr_power, self.total_iterations = lr, lr_power, total_iterations
        self.optimizers = []
        for number, branch in enumerate(network.branches, 1):
            if number in method.trained:
                self.optimizers.append(build_optimizer(branch, lr=lr, **(optimizer or {})))
            else:
                branch.requires_grad_(False)
        self.scale = LossScale(self.device, amp == "fp16")
        self.guard, self.intact = Guard(network, whole_batch(), freeze), True
        # Each process has its own BatchNorm statistics; all continue with their means, which are saved, too.
        self.apart = world_size() > 1 and not any(isinstance(m, nn.SyncBatchNorm) for m in network.modules())
        if checkpoint:
            for number in method.trained:
                recompute_blocks(network.branches[number - 1].backbone)
        if compiled:
            self.compile()

    def compile(self) -> None:
        """Compile the networks in the next step."""
        compile_networks(self.network.branches, self.graphs)
        self.compiled = True

    def step(self, batch: TrainBatch, iteration: int) -> StepOutput:
        """Update the networks on a normalised batch, with the learning rate of `iteration`.

        Returns:
            scalars as means over the batch's parts, and the teaching of the last part, for pictures.
        """
        self.network.train()
        self.method.before_step(iteration / self.total_iterations)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.graphs:
            # From here the graphs may overwrite their outputs of the last step, which are not needed any more. Without
            # this mark every pass would overwrite those of the pass before, such as the first logits of a teacher.
            torch.compiler.cudagraph_mark_step_begin()

        before = self.guard.remember()
        try:
            output, overflow, bad = self._gradients(batch, iteration)
        except Exception:
            # The forward passes changed the BatchNorm statistics: with this undone, the state can be saved.
            self.guard.undo(before)
            raise

        self.intact = False
        self.scale.update(overflow, bad)
        for optimizer in self.optimizers:
            set_learning_rate(optimizer, self.learning_rate(iteration))
            step_unless(optimizer, bad | overflow)
        if self.apart:
            average_in_place([buffer for buffer in self.network.buffers() if buffer.is_floating_point()])
        before += self.guard.remember(averages=True)
        self.method.after_step(self.network, iteration)
        self.guard.undo(before, bad)
        self.intact = True
        return output

    def _gradients(self, batch: TrainBatch, iteration: int) -> tuple[StepOutput, Tensor, Tensor]:
        """Compute all gradients; return the output, and two flags () bool: too large loss scale, and bad step."""
        outputs = [self._backward(part) for part in batch.split(self.accumulate)]
        gradients = [p.grad for optimizer in self.optimizers for p in parameters(optimizer) if p.grad is not None]
        average_in_place(gradients)
        self.scale.unscale(gradients)
        # BatchNorm and losses differ between processes: `judge` combines all of them.
        not_finite = ~torch.isfinite(get_total_norm(gradients))
        overflow = self.scale.excuses(not_finite)
        output = average(outputs)
        return output, overflow, self.guard.judge(iteration, output.scalars, not_finite & ~overflow)

    def _backward(self, part: TrainBatch) -> StepOutput:
        """Add the gradients of a part's losses, one loss after another, so that only one graph exists at a time."""
        method, scalars, total = self.method, {}, 0
        losses = checked_losses(method, method.losses(self.network, part))
        while True:
            try:
                with autocast(self.device, self.amp):
                    name, value, weight = checked_loss(method, next(losses), scalars)
            except StopIteration as end:
                teaching = checked_teaching(method, end.value, scalars)
                break
            self.scale.apply(value * (weight / self.accumulate)).backward()
            scalars[name] = value.detach()
            total = total + weight * scalars[name]
        return StepOutput({SUM: total} | scalars | teaching.scalars, teaching)

    def learning_rate(self, iteration: int) -> float:
        return poly_lr(self.lr, iteration, self.total_iterations, self.lr_power)


def average(outputs: list[StepOutput]) -> StepOutput:
    """Output of a batch from those of its equal parts: means of the scalars, and the teaching of the last part."""
    names = outputs[0].scalars
    means = {name: torch.stack([output.scalars[name].detach() for output in outputs]).mean() for name in names}
    return StepOutput(means, outputs[-1].teaching)


def build_learner(C: Settings, network: Network, **options: Any) -> Learner:
    """The learner that the settings describe, for a network on its device; `options` override its arguments."""
    device = next(network.parameters()).device
    described = {
        "total_iterations": C.total_iterations,
        "lr": C.lr,
        "lr_power": C.lr_power,
        "optimizer": {
            "name": C.optimizer,
            "lr_backbone": C.lr_backbone,
            "momentum": C.momentum,
            "weight_decay": C.weight_decay,
        },
        "amp": choose_amp(C.amp, device, network)[0],
        "accumulate": C.accumulate,
        "checkpoint": C.checkpoint,
        "compiled": chosen_compile(C, device) != OFF,
        "graphs": C.compile == REDUCE_OVERHEAD,
        "freeze": C.on_nan == "stop",
    }
    return Learner(network, build_method(C, whole_batch()).to(device), **(described | options))
