"""Work image by image at full resolution against the same work on the whole upsampled batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.losses import hard_pixels, mean_cross_entropy, weighted_cross_entropy
from furnace.seg_opr.pseudo_label import combine, predict_mixed, predict_upsampled
from furnace.seg_opr.upsampled import full_size, map_images, sum_over_images
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


def weighted_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return (F.cross_entropy(full_size(logits, labels.shape[-2:]), labels, reduction="none") * weight).sum()


def test_logits_of_the_right_size_are_not_touched(logits):
    assert full_size(logits, (3, 5)) is logits
    assert torch.equal(full_size(logits, (9, 17)), upsample(logits, (9, 17)))


def test_sum_over_images_has_value_and_gradient_of_the_whole_batch(logits, labels, weight):
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = 3 * weighted_loss(whole, labels, weight) ** 2
    found = 3 * sum_over_images(weighted_loss, parts, labels, weight) ** 2
    expected.backward()
    found.backward()
    assert relative_error(found, expected) < 1e-12
    assert relative_error(parts.grad, whole.grad) < 1e-12


def test_sum_over_images_needs_no_gradient(logits, labels, weight):
    found = sum_over_images(weighted_loss, logits, labels, weight)
    assert not found.requires_grad
    assert relative_error(found, weighted_loss(logits, labels, weight)) < 1e-12


def test_gradient_flows_on_into_what_made_the_logits(logits, labels, weight):
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: sum_over_images(weighted_loss, logits * s, labels, weight), scale)


def test_map_images_joins_the_results_of_all_images_without_a_gradient(logits, weight):
    calls = []

    def softmax_and_sum(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        calls.append((image.shape, weight.shape))
        return image.softmax(1), weight.sum((1, 2))

    shares, sums = map_images(softmax_and_sum, logits.requires_grad_(), weight)
    assert calls == [((1, 4, 3, 5), (1, 9, 17))] * 3
    torch.testing.assert_close(shares, logits.detach().softmax(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(sums, weight.sum((1, 2)), rtol=1e-14, atol=0)
    assert not shares.requires_grad


CLASSES, BATCH, SMALL, SIDE = 150, 5, 9, 33


@pytest.mark.parametrize(
    "work",
    [
        lambda logits, labels, mask: mean_cross_entropy(logits, labels).backward(),
        lambda logits, labels, mask: weighted_cross_entropy(logits, labels, torch.rand(labels.shape)).backward(),
        lambda logits, labels, mask: hard_pixels(logits.detach(), labels, 0.7, 100),
        lambda logits, labels, mask: predict_mixed(logits, logits, mask),
        lambda logits, labels, mask: combine(*[predict_upsampled(logits, labels.shape[-2:])] * 2, CLASSES),
    ],
    ids=["supervised", "unsupervised", "hard pixels", "mixed", "pseudo labels"],
)
def test_with_many_classes_no_map_of_a_batch_s_scores_exists(work):
    logits = torch.randn(BATCH, CLASSES, SMALL, SMALL, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE))
    with Largest() as largest:
        work(logits, labels, torch.randint(0, 2, (BATCH, 1, SIDE, SIDE)))
    assert largest.elements <= CLASSES * SIDE**2
