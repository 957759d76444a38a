"""Bilinear interpolation against numpy.interp along both axes."""

import pytest
import torch

from furnace.seg_opr.interpolate import upsample
from tests.formulas import bilinear
from tests.golden_values import relative_error


@pytest.mark.parametrize("size", [(33, 49), (3, 4), (12, 7), (1, 9)])
def test_upsample_interpolates_between_aligned_corners(size):
    maps = torch.randn(2, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert relative_error(upsample(maps, size), bilinear(maps, size)) < 1e-12
