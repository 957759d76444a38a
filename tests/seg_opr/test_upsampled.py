"""Computation at full resolution in bands of rows, against the same computation on the whole upsampled batch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from furnace.seg_opr import upsampled
from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.losses import hard_pixels, mean_cross_entropy, weighted_cross_entropy
from furnace.seg_opr.pseudo_label import agreement, predict_mixed, predict_upsampled
from furnace.seg_opr.upsampled import bands, map_bands, rows_at, sum_over_bands
from tests.golden_values import relative_error
from tests.largest import Largest


@pytest.fixture
def logits() -> Tensor:
    """Quarter-resolution logits (3, 4, 3, 5) in float64."""
    return torch.randn(3, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, 4, (3, 9, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weight() -> Tensor:
    return torch.rand(3, 9, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=[1, 4, 1000], ids=["single rows", "four rows", "whole images"])
def band_rows(request, monkeypatch) -> int:
    """Number of rows per band if `logits` are upsampled to (9, 17) in bands."""
    monkeypatch.setattr(upsampled, "BAND_BYTES", request.param * 4 * 17 * 8 + 1)
    return request.param


def weighted_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return (F.cross_entropy(logits, labels, reduction="none") * weight).sum()


def weighted_loss_of_all(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return weighted_loss(upsample(logits, labels.shape[-2:]), labels, weight)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_bands_together_are_the_upsampled_map(small_height, small_width, height, width, rows):
    logits = torch.randn(2, 3, small_height, small_width, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampled, "BAND_BYTES", rows * 3 * width * 8)
        parts = [rows_at(logits, (height, width), band) for band in bands(logits, (height, width))]
    assert max(part.shape[2] for part in parts) == min(max(rows, 1), height)
    torch.testing.assert_close(torch.cat(parts, 2), upsample(logits, (height, width)), rtol=1e-12, atol=1e-12)


def test_bands_of_logits_of_full_size_are_views_and_whole_images_are_upsampled_at_once(logits):
    assert rows_at(logits, (3, 5), slice(1, 3)).data_ptr() == logits[:, :, 1:].data_ptr()
    assert torch.equal(rows_at(logits, (9, 17), slice(0, 9)), upsample(logits, (9, 17)))


def test_sum_over_bands_has_value_and_gradient_of_the_whole_batch(band_rows, logits, labels, weight):
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = 3 * weighted_loss_of_all(whole, labels, weight) ** 2
    found = 3 * sum_over_bands(weighted_loss, parts, labels, weight) ** 2
    expected.backward()
    found.backward()
    assert relative_error(found, expected) < 1e-12
    assert relative_error(parts.grad, whole.grad) < 1e-12


def test_sum_over_bands_needs_no_gradient(band_rows, logits, labels, weight):
    found = sum_over_bands(weighted_loss, logits, labels, weight)
    assert not found.requires_grad
    assert relative_error(found, weighted_loss_of_all(logits, labels, weight)) < 1e-12


def test_gradients_flow_back_beyond_the_logits(band_rows, logits, labels, weight):
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: sum_over_bands(weighted_loss, logits * s, labels, weight), scale)


def test_map_bands_joins_the_results_of_all_images_without_gradients(band_rows, logits, weight):
    shapes = []

    def likeliest(scores: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append((scores.shape, weight.shape))
        return (scores * other).amax(1), weight * 2

    largest, doubled = map_bands(likeliest, [logits.requires_grad_(), logits], (9, 17), weight)
    heights = {1: [1] * 9, 4: [4, 4, 1], 1000: [9]}[band_rows]
    assert shapes == [((1, 4, height, 17), (1, height, 17)) for height in heights] * 3
    expected = upsample(logits.detach(), (9, 17)).square().amax(1)
    torch.testing.assert_close(largest, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(doubled, weight * 2, rtol=0, atol=0)
    assert not largest.requires_grad


CLASSES, BATCH, SMALL, SIDE = 150, 5, 9, 33


@pytest.mark.parametrize(
    "work",
    [
        lambda logits, labels, mask: mean_cross_entropy(logits, labels).backward(),
        lambda logits, labels, mask: weighted_cross_entropy(logits, labels, torch.rand(labels.shape)).backward(),
        lambda logits, labels, mask: hard_pixels(logits.detach(), labels, 0.7, 100),
        lambda logits, labels, mask: predict_mixed(logits, logits, mask),
        lambda logits, labels, mask: agreement(*[predict_upsampled(logits, labels.shape[-2:])] * 2, CLASSES),
    ],
    ids=["supervised", "unsupervised", "hard pixels", "mixed", "pseudo labels"],
)
def test_with_many_classes_the_scores_of_an_image_are_never_complete(work, monkeypatch):
    monkeypatch.setattr(upsampled, "BAND_BYTES", 4 * CLASSES * SIDE * 8)  # eight rows
    logits = torch.randn(BATCH, CLASSES, SMALL, SMALL, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE))
    with Largest() as largest:
        work(logits, labels, torch.randint(0, 2, (BATCH, 1, SIDE, SIDE)))
    assert largest.elements <= max(CLASSES * SIDE * 8, BATCH * CLASSES * SMALL**2)
