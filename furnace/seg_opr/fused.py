"""Triton kernels for GPUs that upsample small logits on the fly: predictions, cross entropy, and its gradient.

No tensor (B, K, H, W) is stored: each pixel interpolates the logits of its four neighbours, class by class, with a
running soft-max (Milakov and Gimelshein, 2018). In the backward pass each small logit sums over the pixels that it
influences, always in the same order. `losses` and `pseudo_label` have the plain form of these computations.

The kernels use built-in functions of Triton only, so that TRITON_INTERPRET=1 runs them on a CPU, as the tests do.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

PIXELS = 256  # per program of the forward pass
COLUMNS, CLASSES = 64, 8  # of the small logits, per program of the backward pass


@triton.jit
def _lines(pixel, scale, size):
    """The line of the small map before a pixel, the one after it, and the weight of the latter."""
    position = pixel * scale
    low = position.to(tl.int32)
    return low, tl.minimum(low + 1, size - 1), position - low


@triton.jit
def _first_pixel(line, scale, pixels_per_line, pixels):
    """First of `pixels` whose line before it (see `_lines`) is `line`; with rounding, one pixel earlier is possible."""
    pixel = tl.ceil(line * pixels_per_line).to(tl.int32)
    pixel = tl.where(((pixel - 1) * scale).to(tl.int32) >= line, pixel - 1, pixel)
    return tl.minimum(tl.maximum(pixel, 0), pixels)


@triton.jit
def _mix(top_left, top_right, bottom_left, bottom_right, weight_y, weight_x):
    """Bilinear interpolation; the weights are those of bottom and right."""
    top = (1 - weight_x) * top_left + weight_x * top_right
    bottom = (1 - weight_x) * bottom_left + weight_x * bottom_right
    return (1 - weight_y) * top + weight_y * bottom


@triton.jit
def _over_classes(logits, pixel, exists, label, classes, height, width, columns, scale_y, scale_x):
    """For each pixel: largest logit, its class, sum of exp(logit - largest), and the logit of `label` (NaN if it is not
    a class). `logits` points to the image's first small logit."""
    top, bottom, weight_y = _lines(pixel // columns, scale_y, height)
    left, right, weight_x = _lines(pixel % columns, scale_x, width)
    largest = tl.full(pixel.shape, -3e38, tl.float32)  # not -inf: -inf - -inf is NaN
    total = tl.full(pixel.shape, 0.0, tl.float32)
    likeliest = tl.full(pixel.shape, 0, tl.int32)
    of_label = tl.full(pixel.shape, float("nan"), tl.float32)
    for k in range(classes):
        top_left = tl.load(logits + top * width + left, mask=exists, other=0.0)
        top_right = tl.load(logits + top * width + right, mask=exists, other=0.0)
        bottom_left = tl.load(logits + bottom * width + left, mask=exists, other=0.0)
        bottom_right = tl.load(logits + bottom * width + right, mask=exists, other=0.0)
        value = _mix(top_left, top_right, bottom_left, bottom_right, weight_y, weight_x)
        shrink = tl.exp(-tl.abs(value - largest))
        total = tl.where(value > largest, total * shrink + 1, total + shrink)
        likeliest = tl.where(value > largest, k, likeliest)
        largest = tl.maximum(value, largest)
        of_label = tl.where(label == k, value, of_label)
        logits += height * width
    return largest, likeliest, total, of_label


@triton.jit
def _predict(
    logits, mask, labels, confidence, classes, height, width, rows, columns, scale_y, scale_x,
    MIXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < rows * columns
    here = image * rows * columns + pixel
    source = tl.full(pixel.shape, 0, tl.int64) + image
    if MIXED:  # inside the mask take the second half of the logits
        inside = tl.load(mask + here, mask=exists, other=0)
        source = tl.where(inside != 0, source + tl.num_programs(1), source)
    logits += source * (classes * height * width)
    _, likeliest, total, _ = _over_classes(logits, pixel, exists, -1, classes, height, width, columns, scale_y, scale_x)
    tl.store(labels + here, likeliest.to(tl.int64), mask=exists)
    tl.store(confidence + here, 1 / total, mask=exists)


@triton.jit
def _cross_entropy(
    logits, labels, losses, normalizers, ignored, classes, height, width, rows, columns, scale_y, scale_x,
    BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < rows * columns
    here = image * rows * columns + pixel
    label = tl.load(labels + here, mask=exists, other=ignored)
    logits += image * (classes * height * width)
    largest, _, total, of_label = _over_classes(
        logits, pixel, exists, label, classes, height, width, columns, scale_y, scale_x
    )
    normalizer = largest + tl.log(total)
    tl.store(normalizers + here, normalizer, mask=exists)
    loss = normalizer - of_label
    loss = tl.where((label == ignored) | (loss < 0), 0.0, loss)  # rounding of log must not give a probability above 1
    tl.store(losses + here, loss, mask=exists)


@triton.jit
def _cross_entropy_backward(
    logits, labels, normalizers, grad_losses, grad_logits, ignored, classes, height, width, rows, columns,
    scale_y, scale_x, pixels_y, pixels_x, span, BLOCK: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Gradient of some classes in some columns of one row of the small logits."""
    blocks = (width + BLOCK - 1) // BLOCK
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[:, None]
    image = tl.program_id(2).to(tl.int64)
    plane = (image * classes + k) * (height * width)
    exists = (k < classes) & (column < width)[None, :]
    gradient = tl.full((CLASSES, BLOCK), 0.0, tl.float32)
    # The pixels between this row and the one before, then those up to the one after; the same for the columns.
    for below in tl.static_range(2):
        top = row - 1 + below
        first_y = _first_pixel(top, scale_y, pixels_y, rows)
        end_y = _first_pixel(top + 1, scale_y, pixels_y, rows)
        line_top = plane + tl.maximum(top, 0) * width
        line_bottom = plane + tl.minimum(top + 1, height - 1) * width
        for after in tl.static_range(2):
            left = column - 1 + after
            first_x = _first_pixel(left, scale_x, pixels_x, columns)
            at_left, at_right = tl.maximum(left, 0)[None, :], tl.minimum(left + 1, width - 1)[None, :]
            top_left = tl.load(logits + line_top + at_left, mask=exists, other=0.0)
            top_right = tl.load(logits + line_top + at_right, mask=exists, other=0.0)
            bottom_left = tl.load(logits + line_bottom + at_left, mask=exists, other=0.0)
            bottom_right = tl.load(logits + line_bottom + at_right, mask=exists, other=0.0)
            for y in range(first_y, end_y):
                weight_y = y * scale_y - top
                for step in range(span):
                    x = first_x + step
                    low, _, weight_x = _lines(x, scale_x, width)
                    reached = (low == left) & (x < columns) & (column < width)
                    here = (image * rows + y) * columns + x
                    label = tl.load(labels + here, mask=reached, other=ignored)
                    normalizer = tl.load(normalizers + here, mask=reached, other=0.0)
                    grad_loss = tl.load(grad_losses + here, mask=reached & (label != ignored), other=0.0)
                    share_y = weight_y if below == 0 else 1 - weight_y
                    share_x = weight_x if after == 0 else 1 - weight_x
                    value = _mix(top_left, top_right, bottom_left, bottom_right, weight_y, weight_x[None, :])
                    probability = tl.where(reached[None, :], tl.exp(value - normalizer[None, :]), 0.0)
                    wanted = tl.where(label[None, :] == k, 1.0, 0.0)
                    gradient += (share_y * share_x * grad_loss)[None, :] * (probability - wanted)
    tl.store(grad_logits + plane + row * width + column[None, :], gradient, mask=exists)


def _shape(logits: Tensor, size: tuple[int, int]) -> tuple[int | float, ...]:
    """Classes, small and full height and width, and lines of the small map per pixel down and across."""
    classes, height, width = logits.shape[1:]
    scales = [(small - 1) / (full - 1) if full > 1 else 0.0 for small, full in zip((height, width), size, strict=True)]
    return classes, height, width, *size, *scales


def _forward_grid(images: int, size: tuple[int, int]) -> tuple[int, int]:
    return triton.cdiv(size[0] * size[1], PIXELS), images


def predict(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Likeliest class (B, H, W) int64 of logits (B, K, h, w) float32 upsampled to `size`, and its probability."""
    return _predicted(logits.detach(), None, len(logits), size)


def predict_mixed(logits_0: Tensor, logits_1: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`predict` on two logits (B, K, h, w), the second where the mask (B, 1, H, W) is not 0."""
    return _predicted(torch.cat([logits_0.detach(), logits_1.detach()]), mask, len(mask), mask.shape[-2:])


def _predicted(logits: Tensor, mask: Tensor | None, images: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    labels = torch.empty((images, *size), dtype=torch.int64, device=logits.device)
    confidence = torch.empty(labels.shape, device=logits.device)
    logits, mixed = logits.contiguous(), mask is not None
    mask = mask.contiguous() if mixed else None
    with torch.cuda.device_of(logits):
        _predict[_forward_grid(images, size)](
            logits, mask, labels, confidence, *_shape(logits, size), MIXED=mixed, BLOCK=PIXELS
        )
    return labels, confidence


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Cross entropy (B, H, W) float32 of each pixel; 0 if ignored, NaN if its label is not a class.

    Args:
        logits: (B, K, h, w) float32, upsampled to the labels; differentiable once.
        labels: (B, H, W) int64.
        ignore_index: label of the pixels that do not count.
    """
    return _CrossEntropy.apply(logits, labels, ignore_index)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        logits, labels = logits.contiguous(), labels.contiguous()
        size = labels.shape[-2:]
        losses = torch.empty(labels.shape, device=logits.device)
        normalizers = torch.empty_like(losses)
        with torch.cuda.device_of(logits):
            _cross_entropy[_forward_grid(len(labels), size)](
                logits, labels, losses, normalizers, ignored, *_shape(logits, size), BLOCK=PIXELS
            )
        ctx.save_for_backward(logits, labels, normalizers)
        ctx.ignored = ignored
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_losses: Tensor):
        logits, labels, normalizers = ctx.saved_tensors
        shape = classes, height, width, rows, columns, *scales = _shape(logits, labels.shape[-2:])
        # If the small map has only one line, all pixels belong to it.
        per_line = [1 / scale if scale else float(n) for scale, n in zip(scales, (rows, columns), strict=True)]
        # One more than the exact count, because rounding may change the count and the first pixel.
        span = (columns - 1) // (width - 1) + 1 if width > 1 else columns
        grad_logits = torch.empty_like(logits)
        grid = height * triton.cdiv(width, COLUMNS), triton.cdiv(classes, CLASSES), len(logits)
        with torch.cuda.device_of(logits):
            _cross_entropy_backward[grid](
                logits, labels, normalizers, grad_losses.contiguous(), grad_logits, ctx.ignored, *shape, *per_line,
                span, BLOCK=COLUMNS, CLASSES=CLASSES,
            )  # fmt: skip
        return grad_logits, None, None
