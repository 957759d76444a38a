"""Full-resolution work on quarter-resolution logits, one image at a time.

A full-resolution map of logits is by far the largest tensor of a training step (16 x 19 x 800 x 800 float32: 778 MB),
and a plain step makes dozens of passes over such maps. Here only one image's map exists at any time, small enough for
the caches, and only its quarter-resolution gradient is kept. This is the form for CPUs, and the reference of the
kernels that GPUs have in its place (see `fused`).
"""

import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from furnace.seg_opr.interpolate import upsample
from furnace.utils.labels import IGNORE_INDEX

TOLERANCE = 1e-3  # of a trial: far above rounding, far below a fault


def full_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, h, w) at `size` (H, W); untouched if they have it."""
    return logits if logits.shape[-2:] == tuple(size) else upsample(logits, size)


def kernels(logits: Tensor) -> ModuleType | None:
    """The module `fused` if its kernels take such logits on their device, else None: then the plain form does it."""
    return _fused_on(logits.device) if logits.is_cuda and logits.dtype == torch.float32 else None


@cache
def _fused_on(device: torch.device) -> ModuleType | None:
    try:
        from furnace.seg_opr import fused

        try_kernels(fused, device)
    except Exception as error:  # no Triton, no C compiler for it, a GPU that is too old, a folder without room
        line = f"{type(error).__name__}: {error}".partition("\n")[0]
        warnings.warn(f"labels and losses are slower: Triton kernels do not work on {device} ({line})", stacklevel=2)
        return None
    return fused


@torch.inference_mode(False)
@torch.enable_grad()
def try_kernels(fused: ModuleType, device: torch.device) -> None:
    """Let the kernels take a few pixels on a device. Raises AssertionError if the plain form has other values."""
    classes, size = 5, (7, 9)
    logits = torch.linspace(-9, 9, classes * 2 * 3).sin().view(1, classes, 2, 3).to(device).requires_grad_()
    labels = torch.arange(size[0] * size[1], device=device).view(1, *size) % classes
    losses = fused.cross_entropy(logits, labels, IGNORE_INDEX)
    plain = F.cross_entropy(upsample(logits, size), labels, reduction="none")
    gradients = [torch.autograd.grad(values.sum(), logits)[0] for values in (losses, plain)]
    confidence = upsample(logits, size).softmax(1).amax(1)
    for found, expected in ((losses, plain), gradients, (fused.predict(logits, size)[1], confidence)):
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def sum_over_images(loss: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
    """Sum of `loss(logits[i], *maps[i])` over the images i, differentiable in `logits` once.

    Args:
        loss: logits (1, K, h, w) and maps (1, ...) of one image to ().
        logits: (B, K, h, w).
        maps: (B, ...) each; no gradient reaches them.

    Returns:
        () of the dtype of `logits`.
    """
    return _SumOverImages.apply(loss, logits, *maps)


class _SumOverImages(torch.autograd.Function):
    """Computes each image's gradient right after its loss, as its full-resolution maps are still there."""

    @staticmethod
    def forward(ctx, loss: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
        total = logits.new_zeros(())
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[1] else None
        for i in range(len(logits)):
            image = logits[i : i + 1].detach().requires_grad_(gradient is not None)
            with torch.set_grad_enabled(gradient is not None):
                value = loss(image, *(m[i : i + 1] for m in maps))
            if gradient is not None:
                (gradient[i : i + 1],) = torch.autograd.grad(value, image)
            total = total + value.detach()
        ctx.save_for_backward(gradient)
        ctx.number_of_maps = len(maps)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor):
        (gradient,) = ctx.saved_tensors
        return None, gradient * grad_total, *[None] * ctx.number_of_maps


@torch.no_grad()
def map_images(function: Callable[..., tuple[Tensor, ...]], *maps: Tensor) -> tuple[Tensor, ...]:
    """`function(*maps[i])` of every image i, (1, ...) in and out, joined to (B, ...)."""
    parts = [function(*(m[i : i + 1] for m in maps)) for i in range(len(maps[0]))]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
