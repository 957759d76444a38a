"""Optimizers by name, parameter groups, and the poly learning-rate policy."""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from furnace.utils.errors import UserError
from furnace.utils.names import Registry

ENCODER = "backbone"  # name of the encoder in a branch
# Functions (parameter groups, lr, momentum, fused) that return an optimizer. Groups contain `weight_decay`.
OPTIMIZERS: Registry[Callable[[list[dict], float, float, bool], Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(groups: list[dict], lr: float, momentum: float, fused: bool) -> Optimizer:
    """Stochastic gradient descent with momentum, as published."""
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)
    if momentum:
        # PyTorch's initial state, created early: a skipped first step would leave a fused kernel's state undefined.
        for parameter in parameters(optimizer):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@OPTIMIZERS.register("adamw")
def adamw(groups: list[dict], lr: float, momentum: float, fused: bool) -> Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with PyTorch's betas; it does not use `momentum`."""
    return torch.optim.AdamW(groups, lr=lr, fused=fused)


def build_optimizer(
    branch: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    lr_backbone: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Optimizer:
    """The optimizer of one branch; fused into one kernel on a GPU.

    Args:
        branch: with its encoder as `branch.backbone`.
        name: entry of `OPTIMIZERS`.
        lr: learning rate.
        lr_backbone: factor of the encoder's learning rate.
        momentum, weight_decay: as in the settings.

    Raises:
        UserError: the entry gives no optimizer.
    """
    fused = next(branch.parameters()).is_cuda
    optimizer = OPTIMIZERS.find(name)(parameter_groups(branch, weight_decay, lr_backbone), lr, momentum, fused)
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer {name!r}: returned a {type(optimizer).__name__}; it must return an optimizer")
    return optimizer


def parameter_groups(branch: nn.Module, weight_decay: float, lr_backbone: float = 1.0) -> list[dict]:
    """Four groups: the encoder's parameters and the rest, each first with and then without weight decay.

    The joined groups with weight decay have the parameter order of the module, and so do those without: this allows to
    load snapshots with other groups.
    """
    encoder = {id(parameter) for parameter in getattr(branch, ENCODER, nn.Module()).parameters()}
    groups: dict[tuple[bool, bool], dict] = {
        (of_encoder, decays): {"params": [], "weight_decay": decay, "lr_factor": factor}
        for of_encoder, factor in ((True, lr_backbone), (False, 1.0))
        for decays, decay in ((True, weight_decay), (False, 0.0))
    }
    for parameter, decays in tell_decay(branch):
        groups[id(parameter) in encoder, decays]["params"].append(parameter)
    return list(groups.values())


def tell_decay(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each parameter, and True if weight decay applies: for weights of at least two dimensions, not embeddings.

    Norms and biases have one dimension; tokens, positions and scales are parameters with names other than "weight".
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name.endswith("weight") and not isinstance(module, nn.Embedding)
            yield parameter, is_weight and parameter.ndim >= 2


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, in the order of its state's ids."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def poly_lr(base: float, iteration: int, total: int, power: float) -> float:
    """Learning rate of iteration 0 to total - 1: `base * (1 - iteration / total) ** power`."""
    return base * (1 - iteration / total) ** power
