"""Losses against the golden values, naive NumPy loops, and numerical gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.catalog import CITYSCAPES_CLASS_WEIGHTS
from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.losses import (
    MeanCrossEntropy,
    OhemCrossEntropy,
    hard_pixels,
    kth_smallest,
    mean_cross_entropy,
    weighted_cross_entropy,
)
from furnace.seg_opr.whole_batch import WholeBatch
from furnace.utils.labels import IGNORE_INDEX
from tests.golden_values import each_case, load_case, relative_error

CITY_CLASS_WEIGHT = torch.tensor(CITYSCAPES_CLASS_WEIGHTS, dtype=torch.float64)
SEEDS = st.integers(0, 2**32 - 1)


@each_case("ohem_city")
def test_ohem_loss_and_gradient_are_the_published_ones_or_zero_instead_of_nan(name, case):
    golden = load_case(name, case)
    logits = torch.from_numpy(golden["logits"]).double().requires_grad_()
    criterion = OhemCrossEntropy(
        thresh=float(golden["thresh"]),
        min_kept=int(golden["min_kept"]),
        class_weight=CITY_CLASS_WEIGHT if golden["use_weight"] else None,
    )
    loss = criterion(logits, torch.from_numpy(golden["labels"]).long())
    loss.backward()
    assert np.isnan(golden["loss"]) == (case == "all_ignored")
    if case == "all_ignored":
        assert loss.item() == 0 and (logits.grad == 0).all()
    else:
        assert relative_error(loss, golden["loss"]) < 1e-5
        assert relative_error(logits.grad, golden["grad"]) < 1e-5


def random_case(seed: int, ignored_share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
    """Logits (2, 4, 3, 5) float64, labels (2, 3, 5), some of them ignored, and the generator."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(3 * rng.standard_normal((2, 4, 3, 5)))
    labels = torch.from_numpy(rng.integers(0, 4, (2, 3, 5)))
    labels[torch.from_numpy(rng.random((2, 3, 5)) < ignored_share)] = IGNORE_INDEX
    return logits, labels, rng


def naive_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> dict[tuple[int, int, int], float]:
    """Probability of the labelled class by pixel (image, row, column), for pixels that are not ignored."""
    probabilities = {}
    for pixel in np.ndindex(*labels.shape):
        label = int(labels[pixel])
        if label != IGNORE_INDEX:
            exponentials = np.exp(logits[pixel[0], :, pixel[1], pixel[2]].numpy())
            probabilities[pixel] = exponentials[label] / exponentials.sum()
    return probabilities


@given(SEEDS, st.booleans())
def test_mean_cross_entropy_is_the_naive_weighted_mean(seed, weighted):
    logits, labels, rng = random_case(seed)
    class_weight = torch.from_numpy(rng.uniform(0.5, 2, 4)) if weighted else None
    weights = np.ones(4) if class_weight is None else class_weight.numpy()

    total, norm = 0.0, 0.0
    for pixel, probability in naive_probabilities(logits, labels).items():
        total -= weights[int(labels[pixel])] * np.log(probability)
        norm += weights[int(labels[pixel])]

    expected = pytest.approx(total / norm, rel=1e-10)
    assert mean_cross_entropy(logits, labels, class_weight).item() == expected
    assert MeanCrossEntropy(class_weight=class_weight)(logits, labels).item() == expected


@given(SEEDS)
def test_weighted_cross_entropy_is_the_naive_mean_over_all_pixels(seed):
    logits, labels, rng = random_case(seed)
    weight = torch.from_numpy(rng.random(labels.shape))
    total = -sum(weight[pixel].item() * np.log(p) for pixel, p in naive_probabilities(logits, labels).items())
    assert weighted_cross_entropy(logits, labels, weight).item() == pytest.approx(total / labels.numel(), rel=1e-10)


@given(SEEDS)
def test_pixels_that_are_not_counted_have_no_effect(seed):
    logits, labels, rng = random_case(seed)
    counted = torch.from_numpy(rng.random(labels.shape) < 0.6)
    seen = {pixel: -np.log(p) for pixel, p in naive_probabilities(logits, labels).items() if counted[pixel]}
    weight = torch.from_numpy(rng.random(labels.shape))
    count = max(counted.sum().item(), 1)
    expected = sum(weight[pixel].item() * loss for pixel, loss in seen.items()) / count
    assert weighted_cross_entropy(logits, labels, weight, counted).item() == pytest.approx(expected, rel=1e-10)
    unweighted = weighted_cross_entropy(logits, labels, counted=counted).item()
    assert unweighted == pytest.approx(sum(seen.values()) / count, rel=1e-10)
    assert weighted_cross_entropy(logits, labels, counted=torch.zeros_like(counted)).item() == 0


def test_without_weights_and_ignored_pixels_the_weighted_loss_is_exactly_the_mean():
    logits, labels, _ = random_case(5)
    labels = labels.where(labels != IGNORE_INDEX, 0)
    assert torch.equal(weighted_cross_entropy(logits, labels), mean_cross_entropy(logits, labels))


@given(SEEDS, st.floats(0, 1), st.integers(0, 40), st.sampled_from([0, 0.3, 1]))
def test_hard_pixels_are_those_of_a_naive_selection(seed, thresh, min_kept, ignored_share):
    logits, labels, _ = random_case(seed, ignored_share)
    probabilities = naive_probabilities(logits, labels)
    if min_kept == 0 or len(probabilities) < min_kept:
        kept = set(probabilities)
    else:
        threshold = max(thresh, sorted(probabilities.values())[min_kept - 1])
        # A small tolerance: the last kept pixel is exactly at the threshold, and two libraries round differently.
        kept = {pixel for pixel, probability in probabilities.items() if probability <= threshold * (1 + 1e-12)}
    expected = torch.full_like(labels, IGNORE_INDEX)
    for pixel in kept:
        expected[pixel] = labels[pixel]
    assert torch.equal(hard_pixels(logits, labels, thresh, min_kept), expected)


@given(SEEDS, st.floats(0.05, 0.95), st.integers(1, 20))
def test_ohem_is_the_mean_cross_entropy_over_the_hard_pixels(seed, thresh, min_kept):
    logits, labels, rng = random_case(seed)
    class_weight = torch.from_numpy(rng.uniform(0.5, 2, 4))
    criterion = OhemCrossEntropy(IGNORE_INDEX, thresh, min_kept, class_weight)
    kept = hard_pixels(logits, labels, thresh, min_kept)
    assert criterion(logits, labels).item() == mean_cross_entropy(logits, kept, class_weight).item()


@pytest.mark.parametrize("criterion", [MeanCrossEntropy(), OhemCrossEntropy(min_kept=2), OhemCrossEntropy(min_kept=99)])
def test_a_batch_without_a_label_has_loss_zero_and_gradient_zero(criterion):
    logits, labels, _ = random_case(0, ignored_share=1)
    logits.requires_grad_()
    loss = criterion(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_ignored_pixels_have_no_gradient_and_the_others_that_of_finite_differences():
    logits, labels, rng = random_case(5)
    weight = torch.from_numpy(rng.random(labels.shape))
    class_weight = torch.from_numpy(rng.uniform(0.5, 2, 4))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mean_cross_entropy(x, labels, class_weight), logits)
    assert torch.autograd.gradcheck(lambda x: weighted_cross_entropy(x, labels, weight), logits)

    weighted_cross_entropy(logits, labels, weight).backward()
    ignored = (labels == IGNORE_INDEX).unsqueeze(1).expand_as(logits)
    assert ignored.any()
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()


def test_losses_keep_the_dtype_of_the_logits():
    logits, labels, _ = random_case(1)
    for dtype in (torch.float32, torch.float64):
        cast = logits.to(dtype)
        assert mean_cross_entropy(cast, labels, torch.ones(4, dtype=dtype)).dtype == dtype
        assert weighted_cross_entropy(cast, labels, torch.ones(labels.shape, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("num_classes", [2, 11, 19, 21])
def test_logits_of_a_lower_resolution_are_upsampled(num_classes):
    rng, size = np.random.default_rng(num_classes), (11, 19)
    small = torch.from_numpy(rng.normal(0, 2, (2, num_classes, 4, 6)))
    labels = torch.from_numpy(rng.choice([*range(num_classes), IGNORE_INDEX], (2, *size)))
    weight = torch.from_numpy(rng.random((2, *size)))
    large = upsample(small, size)
    assert torch.equal(hard_pixels(small, labels, 0.3, 50), hard_pixels(large, labels, 0.3, 50))
    for loss in (
        lambda logits: mean_cross_entropy(logits, labels),
        lambda logits: weighted_cross_entropy(logits, labels, weight),
        lambda logits: OhemCrossEntropy(thresh=0.3, min_kept=50)(logits, labels),
    ):
        gradients = []
        for resize in (lambda logits: logits, lambda logits: upsample(logits, size)):
            leaf = small.clone().requires_grad_()
            loss(resize(leaf)).backward()
            gradients.append(leaf.grad)
        assert loss(small).item() == pytest.approx(loss(large).item(), rel=1e-12)
        assert relative_error(*gradients) < 1e-12


@given(
    st.integers(0, 2**31), st.integers(1, 3000), st.integers(1, 4000), st.sampled_from([torch.float32, torch.float64])
)
def test_the_kth_smallest_by_histograms_is_that_of_a_sort(seed: int, number: int, k: int, dtype: torch.dtype):
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(number, generator=rng).to(dtype)
    values[torch.rand(number, generator=rng) < 0.2] = 1  # like ignored pixels
    values[torch.rand(number, generator=rng) < 0.2] = values[0]
    # WholeBatch() is not known to be one process only, so this takes the path for GPUs and several processes.
    assert kth_smallest(values, k, WholeBatch()) == values.sort().values[min(k, number) - 1]
    assert kth_smallest(values, k) == values.sort().values[min(k, number) - 1]


def test_the_kth_smallest_of_several_processes_is_that_of_all_their_values():
    mine, theirs = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))

    class Twice(WholeBatch):
        """Adds the values that the other process would send: its number of values, then its histograms."""

        def __init__(self):
            self.seen = []

        def total(self, value):
            self.seen.append(value)
            return value + others[len(self.seen) - 1]

    for k in (1, 37, 400, 1000):
        # The other process's histograms depend on the digits found so far, which follow from the expected value.
        both = torch.cat([mine, theirs])
        expected = both.sort().values[k - 1]
        bits = theirs.view(torch.int32)
        found = expected.view(torch.int32)
        others = [torch.tensor(500.0)]
        for shift in (22, 11, 0):
            inside = bits[(bits >> shift >> 11) == (found >> shift >> 11)]
            others.append(torch.bincount((inside >> shift) & 2047, minlength=2048))
        assert kth_smallest(mine, k, Twice()) == expected
