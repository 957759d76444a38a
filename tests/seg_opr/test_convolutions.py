"""Convolutions with backward passes of our own, against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from furnace.seg_opr.convolutions import AtrousConvolution, DepthwiseConvolution, covered_share
from tests.golden_values import relative_error


def covered_taps(size: tuple[int, int], rate: int) -> int:
    """Number of taps of all pixels that meet the map, one by one."""
    (height, width), taps = size, (-rate, 0, rate)
    return sum(
        0 <= y + dy < height and 0 <= x + dx < width
        for y in range(height)
        for x in range(width)
        for dy in taps
        for dx in taps
    )


@given(*[st.integers(1, 9)] * 2, st.integers(1, 7))
def test_the_covered_share_counts_taps(height, width, rate):
    share = covered_share((height, width), rate)
    assert share == pytest.approx(covered_taps((height, width), rate) / (9 * height * width))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (6, 7), (9, 5), (7, 13), (14, 20)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_and_gradients_are_those_of_padded_maps_with_less_arithmetic(size, layout):
    generator, rate = torch.Generator().manual_seed(0), 6
    maps = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=generator)
    maps, weight = (tensor.to(memory_format=layout).requires_grad_() for tensor in (maps, weight))
    factors = torch.randn(2, 4, *size, dtype=torch.float64, generator=generator)

    ours = AtrousConvolution.apply(maps, weight, rate)
    expected = F.conv2d(F.pad(maps, (rate,) * 4), weight, dilation=rate)
    assert relative_error(ours, expected) < 1e-12
    with FlopCounterMode(display=False) as counter:
        gradients = torch.autograd.grad((ours * factors).sum(), (maps, weight))
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * factors).sum(), (maps, weight)), strict=True
    ):
        assert relative_error(gradient, expected_gradient) < 1e-12
    products = 2 * 3 * 4 * covered_taps(size, rate)  # images, channels in and out
    assert counter.get_total_flops() == 2 * 2 * products  # two gradients, multiplied and added


def test_sums_over_taps_are_not_rounded_to_16_bits():
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.randn(1, 8, 9, 9, generator=generator), torch.randn(8, 8, 3, 3, generator=generator)
    factors = torch.randn(1, 8, 9, 9, generator=generator)
    maps, weight, factors = (tensor.bfloat16() for tensor in (maps, weight, factors))
    exact = maps.double().requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(exact, weight.double(), padding=4, dilation=4), exact, factors.double())
    rounded = maps.requires_grad_()
    (found,) = torch.autograd.grad(AtrousConvolution.apply(rounded, weight, 4), rounded, factors)
    assert found.dtype == torch.bfloat16
    assert relative_error(found.double(), expected) < 2**-8


@given(
    *[st.integers(1, 12)] * 2,
    *[st.integers(1, 5)] * 2,
    *[st.integers(1, 3)] * 2,
    *[st.integers(1, 3)] * 2,
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)
def test_depthwise_gradients_are_those_of_pytorch(h, w, rows, columns, down, right, dy, dx, top, left, with_bias):
    generator = torch.Generator().manual_seed(0)
    dilation, padding = (dy, dx), (min(top, dy * (rows - 1)), min(left, dx * (columns - 1)))
    h, w = max(h, dy * (rows - 1) + 1), max(w, dx * (columns - 1) + 1)
    maps, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((2, 3, h, w), (3, 1, rows, columns), (3,))
    )
    inputs = (maps, weight, bias) if with_bias else (maps, weight)
    geometry = (down, right), padding, dilation

    ours = DepthwiseConvolution.apply(maps, weight, bias if with_bias else None, *geometry)
    expected = F.conv2d(maps, weight, bias if with_bias else None, *geometry, groups=3)
    assert torch.equal(ours, expected)
    factors = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    pairs = (torch.autograd.grad((output * factors).sum(), inputs) for output in (ours, expected))
    for gradient, expected_gradient in zip(*pairs, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (5, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_depthwise_gradients_in_other_precisions(kernel, stride, dilation, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 16, 9, 12), (16, 1, kernel, kernel)
    found = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    geometry = (stride, stride), (dilation * (kernel // 2),) * 2, (dilation, dilation)
    exact = [tensor.double().requires_grad_() for tensor in found]
    found = [tensor.requires_grad_() for tensor in found]
    ours = DepthwiseConvolution.apply(*found, None, *geometry)
    factors = torch.randn(ours.shape, generator=generator).to(dtype)
    expected = F.conv2d(*exact, None, *geometry, groups=16)
    gradients = torch.autograd.grad(ours, found, factors)
    for gradient, right in zip(gradients, torch.autograd.grad(expected, exact, factors.double()), strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient.double(), right) < {torch.float32: 1e-5, torch.bfloat16: 2**-6}[dtype]
