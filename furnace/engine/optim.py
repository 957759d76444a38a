"""SGD and the poly learning-rate policy."""

import torch
from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: weights of convolutions and linear layers with decay; norms and biases without."""
    decayed, free = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            (free if name == "bias" or isinstance(module, NORMS) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD over one network; fused into one kernel on a GPU."""
    fused = next(model.parameters()).is_cuda
    optimizer = torch.optim.SGD(parameter_groups(model, weight_decay), lr=lr, momentum=momentum, fused=fused)
    if momentum:
        # As PyTorch begins, but already there: a first step that is skipped would leave a fused kernel's undefined.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def poly_lr(base: float, iteration: int, total: int, power: float) -> float:
    """Learning rate of iteration 0 to total - 1: `base * (1 - iteration / total) ** power`."""
    return base * (1 - iteration / total) ** power
