"""Confusion matrix against a naive loop; the golden values are in test_metrics.py."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace.seg_opr.confusion import confusion_matrix


def naive_confusion(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for row, column in zip(target.ravel(), prediction.ravel(), strict=True):
        if 0 <= row < num_classes:
            counts[row, column] += 1
    return counts


@given(st.integers(1, 12), st.integers(0, 200), st.sampled_from([torch.uint8, torch.int64]), st.integers(0, 2**32 - 1))
def test_confusion_matrix_counts_as_a_naive_loop(num_classes, pixels, dtype, seed):
    rng = np.random.default_rng(seed)
    ignored = [255, num_classes] if dtype == torch.uint8 else [255, num_classes, -1]
    target = rng.choice([*range(num_classes), *ignored], (3, pixels))
    prediction = rng.integers(0, num_classes, (3, pixels))
    confusion = confusion_matrix(torch.tensor(target).to(dtype), torch.tensor(prediction).to(dtype), num_classes)
    np.testing.assert_array_equal(confusion.numpy(), naive_confusion(target, prediction, num_classes))
