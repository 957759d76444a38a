"""Exponential moving average of a network (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def decay_at(iteration: int, ema_decay: float) -> float:
    """Decay of the average at an iteration, from 0; at first as for the mean of all networks so far."""
    return min(1 - 1 / (iteration + 1), ema_decay)


def update_average(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Set `teacher` to decay * teacher + (1 - decay) * student, including buffers; counters are copied."""
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    pairs = list(zip(teacher.state_dict().values(), student.state_dict().values(), strict=True))
    averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    get_ema_multi_avg_fn(decay)(averages, values, None)
    for count, value in pairs:
        if not count.is_floating_point():
            count.copy_(value)
