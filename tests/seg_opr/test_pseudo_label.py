"""Pseudo labels against the golden values and a naive loop over pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from furnace.seg_opr.confusion import confusion_matrix
from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import PseudoLabels, cutmix, disagreement, make_pseudo_labels, predict, predict_mixed
from furnace.utils.labels import IGNORE_INDEX
from tests.golden_values import each_case, load_case, relative_error

SEEDS = st.integers(0, 2**32 - 1)


@each_case("unsup_city", "unsup_voc")
def test_labels_weights_losses_and_gradients_are_the_published_ones(name, case):
    golden = {key: torch.from_numpy(array) for key, array in load_case(name, case).items()}
    teachers = [cutmix(golden[f"logits_u0_{k}"], golden[f"logits_u1_{k}"], golden["mask"]).double() for k in (1, 2)]
    pseudo = make_pseudo_labels(*teachers)
    labels, confidences = zip(*((p.labels, p.confidence) for p in pseudo.predictions), strict=True)
    maps = {"labels_1": labels[0], "labels_2": labels[1], "labels_inter": pseudo.intersection}
    for key, found in (maps | {"labels_union": pseudo.union, "confusion": smoothed_confusion(pseudo)}).items():
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), golden[key], err_msg=key)
    assert pseudo.class_weight.dtype == pseudo.overlap.dtype == torch.float64

    students = [golden[f"student_{k}"].double().requires_grad_() for k in (1, 2)]
    loss_inter = weighted_cross_entropy(students[0], pseudo.intersection, pseudo.weight_intersection)
    loss_union = weighted_cross_entropy(students[1], pseudo.union, pseudo.weight_union)
    loss = (loss_inter + loss_union) * int(golden["unsup_weight"])
    loss.backward()
    for key, found in {
        "confidence_1": confidences[0],
        "confidence_2": confidences[1],
        "class_weight": pseudo.class_weight,
        "overlap": pseudo.overlap,
        "loss_inter": loss_inter,
        "loss_union": loss_union,
        "loss_unsup": loss,
        "grad_student_1": students[0].grad,
        "grad_student_2": students[1].grad,
    }.items():
        assert relative_error(found, golden[key]) < 1e-5, key


def smoothed_confusion(pseudo: PseudoLabels) -> Tensor:
    """Counts of the class pairs that the teachers predict, plus one for each agreement."""
    num_classes = len(pseudo.class_weight)
    first, second = (prediction.labels for prediction in pseudo.predictions)
    return confusion_matrix(first, second, num_classes) + torch.eye(num_classes, dtype=torch.int64)


def random_teachers(seed: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Logits (2, K, 3, 4) float64 of two teachers that agree on some pixels."""
    rng = np.random.default_rng(seed)
    common = 2 * rng.standard_normal((2, num_classes, 3, 4))
    return tuple(torch.from_numpy(common + rng.standard_normal(common.shape)) for _ in range(2))


def naive_disagreement(counts: np.ndarray) -> np.ndarray:
    num_classes = len(counts)
    shares = np.zeros(num_classes)
    for c in range(num_classes):
        row, column = sum(counts[c, :]), sum(counts[:, c])
        shares[c] = (column - counts[c, c]) / column + (row - counts[c, c]) / row
    return shares / (sum(shares) + 1e-6)


@given(SEEDS, st.integers(2, 9))
def test_disagreement_is_that_of_a_naive_loop(seed, num_classes):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (num_classes, num_classes)) + np.eye(num_classes, dtype=np.int64)
    found = disagreement(torch.from_numpy(counts))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), naive_disagreement(counts), rtol=1e-12)


@given(SEEDS, st.integers(2, 6))
def test_pseudo_labels_are_those_of_a_naive_loop(seed, num_classes):
    teachers = random_teachers(seed, num_classes)
    pseudo = make_pseudo_labels(*teachers)
    probabilities = [np.exp(t.numpy()) / np.exp(t.numpy()).sum(1, keepdims=True) for t in teachers]

    counts = np.eye(num_classes, dtype=np.int64)
    pixels = list(np.ndindex(2, 3, 4))
    label_of = [{(b, y, x): int(p[b, :, y, x].argmax()) for b, y, x in pixels} for p in probabilities]
    for pixel in pixels:
        counts[label_of[0][pixel], label_of[1][pixel]] += 1
    class_weight = naive_disagreement(counts)

    for pixel in pixels:
        b, y, x = pixel
        first, second = label_of[0][pixel], label_of[1][pixel]
        confidence = [p[b, :, y, x].max() for p in probabilities]
        weight = mean = sum(confidence) / 2
        if first == second:
            intersection = union = first
        else:
            intersection = IGNORE_INDEX
            chosen = 0 if class_weight[first] > class_weight[second] else 1
            union, weight = (first, second)[chosen], confidence[chosen]
        assert pseudo.intersection[pixel] == intersection
        assert pseudo.union[pixel] == union
        assert pseudo.weight_intersection[pixel].item() == pytest.approx(mean, rel=1e-12)
        assert pseudo.weight_union[pixel].item() == pytest.approx(weight, rel=1e-12)
    assert pseudo.overlap.item() == pytest.approx(counts.trace() / counts.sum(), rel=1e-12)


def test_half_precision_teachers_are_counted_in_double():
    teachers = [t.to(torch.bfloat16) for t in random_teachers(3, 4)]
    pseudo = make_pseudo_labels(*teachers)
    assert pseudo.class_weight.dtype == torch.float64
    assert pseudo.weight_union.dtype == torch.bfloat16
    assert torch.equal(pseudo.class_weight, disagreement(smoothed_confusion(pseudo)))


@given(SEEDS)
def test_cutmix_takes_the_second_map_where_the_mask_is_one(seed):
    first, second = random_teachers(seed, 3)
    mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (2, 1, 3, 4), dtype=np.uint8))
    assert torch.equal(cutmix(first, second, mask), first * (1 - mask) + second * mask)


@given(SEEDS, st.sampled_from([(3, 4), (9, 13), (12, 16)]), st.sampled_from([2, 3, 11, 19, 21]))
def test_predictions_on_small_logits_are_those_on_mixed_full_size_logits(seed, size, num_classes):
    first, second = random_teachers(seed, num_classes)
    mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (2, 1, *size), dtype=np.uint8))
    expected = predict(upsample(first, size) * (1 - mask) + upsample(second, size) * mask)
    found = predict_mixed(first, second, mask)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.confidence, expected.confidence, rtol=1e-12, atol=0)
