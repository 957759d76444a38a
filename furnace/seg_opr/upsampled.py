"""Full-resolution computations on quarter-resolution logits, one band of rows of one image at a time.

A full-resolution map of logits is by far the largest tensor of a training step (16 x 19 x 800 x 800 float32: 778 MB),
and a plain step makes dozens of passes over such maps. Here only one band exists at any time, small enough for the
caches whatever the number of classes, and only the quarter-resolution gradient is kept. CPUs use this form; it is the
reference for the kernels that GPUs use instead (see `fused`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from furnace.seg_opr.interpolate import upsample
from furnace.utils.labels import IGNORE_INDEX

TOLERANCE = 1e-3  # of the trial: far above rounding errors, far below a wrong result
BAND_BYTES = 6 * 2**20  # of logits at full resolution: larger bands leave the caches


def bands(logits: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Split the rows of `size` (H, W): in a band, full-size logits (1, K, rows, W) take at most about `BAND_BYTES`."""
    height, width = size
    rows = max(1, BAND_BYTES // (logits.shape[1] * width * logits.element_size()))
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))


def rows_at(logits: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The `rows` of logits (B, K, h, w) upsampled to `size` (H, W): (B, K, rows, W); a view if they have this size."""
    (height, width), source = size, logits.shape[-2]
    if logits.shape[-2:] == tuple(size):
        return logits[..., rows, :]
    if rows == slice(0, height):
        return upsample(logits, size)
    precision = torch.promote_types(logits.dtype, torch.float32)
    position = torch.arange(rows.start, rows.stop, device=logits.device, dtype=precision)
    position = position * ((source - 1) / max(height - 1, 1))  # corners aligned
    above = position.long()
    below = (above + 1).clamp(max=source - 1)
    share = (position - above).to(logits.dtype).unsqueeze(1)
    lines = torch.lerp(logits[..., above, :], logits[..., below, :], share)
    return upsample(lines, (len(above), width))


def kernels(logits: Tensor) -> ModuleType | None:
    """The module `fused` if its kernels work for these logits on their device, else None: use the plain form."""
    return _fused_on(logits.device) if logits.is_cuda and logits.dtype == torch.float32 else None


@cache
def _fused_on(device: torch.device) -> ModuleType | None:
    try:
        from furnace.seg_opr import fused

        try_kernels(fused, device)
    except Exception as error:  # no Triton, no C compiler, an old GPU, or a full disk
        line = f"{type(error).__name__}: {error}".partition("\n")[0]
        warnings.warn(f"labels and losses are slower: Triton kernels do not work on {device} ({line})", stacklevel=2)
        return None
    return fused


@torch.inference_mode(False)
@torch.enable_grad()
def try_kernels(fused: ModuleType, device: torch.device) -> None:
    """Run the kernels on a few pixels on a device. Raises AssertionError if the plain form gives other values."""
    classes, size = 5, (7, 9)
    logits = torch.linspace(-9, 9, classes * 2 * 3).sin().view(1, classes, 2, 3).to(device).requires_grad_()
    labels = torch.arange(size[0] * size[1], device=device).view(1, *size) % classes
    losses = fused.cross_entropy(logits, labels, IGNORE_INDEX)
    plain = F.cross_entropy(upsample(logits, size), labels, reduction="none")
    gradients = [torch.autograd.grad(values.sum(), logits)[0] for values in (losses, plain)]
    confidence = upsample(logits, size).softmax(1).amax(1)
    for found, expected in ((losses, plain), gradients, (fused.predict(logits, size)[1], confidence)):
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def sum_over_bands(loss: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
    """Sum of `loss(logits, *maps)` over all bands of all images; differentiable once, with respect to `logits`.

    Args:
        loss: logits (1, K, rows, W) at full resolution and maps (1, rows, W) of one band to ().
        logits: (B, K, h, w), at the resolution of the maps or lower.
        maps: (B, H, W) each; they get no gradient.

    Returns:
        () of the dtype of `logits`.
    """
    return _SumOverBands.apply(loss, logits, *maps)


class _SumOverBands(torch.autograd.Function):
    """Computes each band's gradient right after its loss, while its full-resolution maps still exist."""

    @staticmethod
    def forward(ctx, loss: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
        size = maps[0].shape[-2:]
        total = logits.new_zeros(())
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[1] else None
        for i in range(len(logits)):
            image = logits[i : i + 1].detach().requires_grad_(gradient is not None)
            for rows in bands(logits, size):
                with torch.set_grad_enabled(gradient is not None):
                    value = loss(rows_at(image, size, rows), *(m[i : i + 1, rows] for m in maps))
                if gradient is not None:
                    gradient[i : i + 1] += torch.autograd.grad(value, image)[0]
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
def map_bands(
    function: Callable[..., tuple[Tensor, ...]], logits: Sequence[Tensor], size: tuple[int, int], *maps: Tensor
) -> tuple[Tensor, ...]:
    """`function(*logits, *maps)` of all bands of all images, joined.

    Args:
        function: logits (1, K, rows, W) at full resolution and maps (1, rows, W) of one band to maps (1, rows, W).
        logits: (B, K, h, w) each, at `size` (H, W) or lower.
        maps: (B, H, W) each.

    Returns:
        (B, H, W) each.
    """

    def of_image(i: int) -> tuple[Tensor, ...]:
        images = [scores[i : i + 1] for scores in logits]
        parts = [
            function(*(rows_at(image, size, rows) for image in images), *(m[i : i + 1, rows] for m in maps))
            for rows in bands(images[0], size)
        ]
        return tuple(torch.cat(part, 1) for part in zip(*parts, strict=True))

    return tuple(torch.cat(part) for part in zip(*map(of_image, range(len(logits[0]))), strict=True))
