"""Normalisation against its formula in NumPy."""

import numpy as np
import pytest
import torch

from furnace.seg_opr.normalize import Normalize

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
EXACT_MEAN, EXACT_STD = [0.5, 0.25, 0.375], [0.25, 0.5, 0.125]  # exact in every precision


@pytest.fixture
def images() -> np.ndarray:
    """Every grey level in every channel, (2, 3, 16, 16) uint8."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return np.stack([np.stack([levels, levels.T, levels[::-1]]), np.stack([levels[::-1], levels, levels.T])])


@pytest.mark.parametrize(
    "mean, std, dtype, tolerance",
    [(MEAN, STD, torch.float32, 1e-6), (EXACT_MEAN, EXACT_STD, torch.float64, 1e-14)],
)
def test_every_grey_level_is_mapped_by_the_formula(images, mean, std, dtype, tolerance):
    found = Normalize(mean, std).to(dtype)(torch.from_numpy(images))
    expected = (images / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def test_the_rounded_mean_colour_becomes_nearly_zero():
    colour = torch.tensor([round(255 * mean) for mean in MEAN], dtype=torch.uint8).view(1, 3, 1, 1)
    assert Normalize(MEAN, STD)(colour).abs().max() < 0.5 / 255 / min(STD)


def test_constants_move_with_the_module_and_have_no_gradient():
    module = Normalize(MEAN, STD)
    assert not list(module.parameters())
    assert {tuple(buffer.shape) for buffer in module.buffers()} == {(3, 1, 1)}
    assert module.to("meta")(torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device="cpu")).device.type == "meta"


def test_channels_last_memory_is_kept(images):
    channels_last = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    found = Normalize(MEAN, STD)(channels_last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, Normalize(MEAN, STD)(torch.from_numpy(images)))
