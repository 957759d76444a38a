"""Bilinear interpolation against numpy.interp along both axes, and the convolution of interpolated maps."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from furnace.seg_opr.interpolate import convolve_upsampled, upsample
from tests.formulas import bilinear
from tests.golden_values import relative_error


@pytest.mark.parametrize("size", [(33, 49), (3, 4), (12, 7), (1, 9)])
def test_upsample_interpolates_between_aligned_corners(size):
    maps = torch.randn(2, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert relative_error(upsample(maps, size), bilinear(maps, size)) < 1e-12


@given(*[st.integers(1, 6)] * 2, *[st.integers(1, 13)] * 2, st.integers(0, 99))
def test_a_convolution_before_the_interpolation_equals_one_after_it(height, width, new_height, new_width, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    size = new_height, new_width

    ours = convolve_upsampled(maps, weight, size)
    expected = F.conv2d(F.pad(upsample(maps, size), (1, 1, 1, 1)), weight)
    assert relative_error(ours, expected) < 1e-10
    factors = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    pairs = (torch.autograd.grad((output * factors).sum(), (maps, weight)) for output in (ours, expected))
    for gradient, expected_gradient in zip(*pairs, strict=True):
        assert relative_error(gradient, expected_gradient) < 1e-10


def test_a_convolution_before_the_interpolation_needs_less_arithmetic():
    maps, weight = torch.randn(1, 64, 15, 15), torch.randn(64, 64, 3, 3)
    with FlopCounterMode(display=False) as before:
        convolve_upsampled(maps, weight, (60, 60))
    with FlopCounterMode(display=False) as after:
        F.conv2d(upsample(maps, (60, 60)), weight, padding=1)
    assert before.get_total_flops() < after.get_total_flops() / 4
