"""Exponential moving average of a network (Tarvainen and Valpola, NeurIPS 2017)."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(iteration: int, ema_decay: float) -> float:
    """Share of the average that stays in an iteration, from 0: at first that of the mean of all networks so far."""
    return min(1 - 1 / (iteration + 1), ema_decay)


@torch.no_grad()
def update_average(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Make `teacher` decay * teacher + (1 - decay) * student, buffers included; counters are copied."""
    pairs = list(zip(teacher.state_dict().values(), student.state_dict().values(), strict=True))
    averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    get_ema_multi_avg_fn(decay)(averages, values, None)
    for count, value in pairs:
        if not count.is_floating_point():
            count.copy_(value)
