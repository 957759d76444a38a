"""Confusion matrix and scores against the golden values and naive loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace.seg_opr.confusion import confusion_matrix, scores
from tests.golden_values import load_arrays

CLASSES = {"city": 19, "voc": 21}


@pytest.mark.parametrize("name", CLASSES)
def test_confusion_matrix_and_scores_are_the_published_ones(name: str) -> None:
    golden = load_arrays(f"metric_{name}")
    confusion = confusion_matrix(torch.from_numpy(golden["label"]), torch.from_numpy(golden["pred"]), CLASSES[name])
    found = scores(confusion)

    assert confusion.dtype == torch.int64
    np.testing.assert_array_equal(confusion.numpy(), golden["hist"])
    np.testing.assert_allclose(found.iou.numpy(), golden["iou"], rtol=0, atol=1e-9)
    assert np.isnan(golden["iou"]).any(), "the golden case should hold a class that is absent"
    assert found.miou == pytest.approx(golden["miou"], abs=1e-9)
    assert found.miou_no_background == pytest.approx(golden["miou_no_background"], abs=1e-9)
    assert found.pixel_accuracy == pytest.approx(golden["pixel_acc"], abs=1e-9)


def naive_confusion(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for row, column in zip(target.ravel(), prediction.ravel(), strict=True):
        if 0 <= row < num_classes:
            counts[row, column] += 1
    return counts


@given(st.integers(1, 12), st.integers(0, 200), st.sampled_from([torch.uint8, torch.int64]), st.integers(0, 2**32 - 1))
def test_confusion_matrix_counts_as_a_naive_loop(num_classes: int, pixels: int, dtype: torch.dtype, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ignored = [255, num_classes] if dtype == torch.uint8 else [255, num_classes, -1]
    target = rng.choice([*range(num_classes), *ignored], pixels)
    prediction = rng.integers(0, num_classes, pixels)
    confusion = confusion_matrix(torch.tensor(target).to(dtype), torch.tensor(prediction).to(dtype), num_classes)
    np.testing.assert_array_equal(confusion.numpy(), naive_confusion(target, prediction, num_classes))


def test_confusion_matrix_of_a_batch_is_the_sum_over_its_images() -> None:
    target = torch.randint(0, 6, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    prediction = torch.randint(0, 5, (3, 5, 7), generator=torch.Generator().manual_seed(1))
    parts = [confusion_matrix(t, p, 5) for t, p in zip(target, prediction, strict=True)]
    assert torch.equal(confusion_matrix(target, prediction, 5), sum(parts))


@given(st.integers(2, 8), st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_scores_are_those_of_a_naive_loop(num_classes: int, empty: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (num_classes, num_classes)) * (rng.random((num_classes, num_classes)) >= empty)
    found = scores(torch.from_numpy(counts))

    iou, accuracy = [], []
    for k in range(num_classes):
        union = sum(counts[k, j] + counts[j, k] for j in range(num_classes)) - counts[k, k]
        of_class = sum(counts[k])
        iou.append(counts[k, k] / union if union else math.nan)
        accuracy.append(counts[k, k] / of_class if of_class else math.nan)

    np.testing.assert_allclose(found.iou.numpy(), iou, rtol=1e-12)
    np.testing.assert_allclose(found.accuracy.numpy(), accuracy, rtol=1e-12)
    assert found.miou == pytest.approx(mean_of_numbers(iou), nan_ok=True)
    assert found.miou_no_background == pytest.approx(mean_of_numbers(iou[1:]), nan_ok=True)
    assert found.mean_accuracy == pytest.approx(mean_of_numbers(accuracy), nan_ok=True)
    right = counts.trace() / counts.sum() if counts.sum() else math.nan
    assert found.pixel_accuracy == pytest.approx(right, nan_ok=True)


def mean_of_numbers(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def test_a_perfect_prediction_scores_one() -> None:
    found = scores(torch.diag(torch.tensor([4, 0, 9])))
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy) == (1, 1, 1)
    assert found.iou[1].isnan()
