"""Metrics against the golden values and naive loops, and the list of metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace.seg_opr.metrics import METRICS, TAKEN, BoundaryIoU, IoU, Metric, MetricList, check_values
from furnace.utils.errors import UserError
from tests.golden_values import load_arrays

CLASSES = {"city": 19, "voc": 21}
VOID = 255


@pytest.mark.parametrize("name", CLASSES)
def test_values_are_the_published_ones(name):
    golden, metric = load_arrays(f"metric_{name}"), IoU(CLASSES[name])
    metric.update(torch.from_numpy(golden["label"]), torch.from_numpy(golden["pred"]))
    found = metric.compute()
    assert metric.state.dtype == torch.int64
    np.testing.assert_array_equal(found["confusion"].numpy(), golden["hist"])
    np.testing.assert_allclose(found["iou"].numpy(), golden["iou"], rtol=0, atol=1e-9)
    assert np.isnan(golden["iou"]).any(), "the golden case should hold a class that is absent"
    for ours, published in {
        "miou": "miou",
        "miou_no_background": "miou_no_background",
        "pixel_accuracy": "pixel_acc",
    }.items():
        assert found[ours].item() == pytest.approx(golden[published], abs=1e-9)


def mean_of_numbers(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


@given(st.integers(2, 8), st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_values_of_counts_are_those_of_a_naive_loop(num_classes, empty, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (num_classes, num_classes)) * (rng.random((num_classes, num_classes)) >= empty)
    metric = IoU(num_classes)
    metric.state += torch.from_numpy(counts)
    found = metric.compute()

    iou, accuracy, share = [], [], []
    for k in range(num_classes):
        union = sum(counts[k, j] + counts[j, k] for j in range(num_classes)) - counts[k, k]
        of_class = sum(counts[k])
        iou.append(counts[k, k] / union if union else math.nan)
        accuracy.append(counts[k, k] / of_class if of_class else math.nan)
        share.append(of_class / counts.sum() if counts.sum() else math.nan)

    for name, expected in {"iou": iou, "accuracy": accuracy, "pixel_share": share}.items():
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-12)
    assert found["miou"].item() == pytest.approx(mean_of_numbers(iou), nan_ok=True)
    assert found["miou_no_background"].item() == pytest.approx(mean_of_numbers(iou[1:]), nan_ok=True)
    assert found["mean_accuracy"].item() == pytest.approx(mean_of_numbers(accuracy), nan_ok=True)
    right = counts.trace() / counts.sum() if counts.sum() else math.nan
    assert found["pixel_accuracy"].item() == pytest.approx(right, nan_ok=True)


def naive_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that 3 x 3 erosions remove from a mask, one erosion per pixel of boundary width, zeros outside."""
    eroded, (height, width) = mask, mask.shape
    for _ in range(max(1, round(0.02 * math.sqrt(height**2 + width**2)))):
        padded = np.pad(eroded, 1)
        eroded = np.logical_and.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
    return mask & ~eroded


def random_pairs(size: tuple[int, int], num_classes: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two pairs of label and prediction with large blocks and noise, ignored pixels, and without the last class."""
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(2):
        blocks = rng.integers(0, num_classes - 1, (-(-size[0] // 16), -(-size[1] // 16)))
        label = np.kron(blocks, np.ones((16, 16), dtype=np.uint8))[: size[0], : size[1]]
        prediction = np.roll(label, 3, axis=1)
        label[rng.random(size) < 0.002] = VOID
        label[: size[0] // 4, : size[1] // 4] = VOID
        prediction[rng.random(size) < 0.002] = num_classes - 2
        pairs.append((label, prediction))
    return pairs


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (60, 80), (121, 90)])  # boundaries of 1, 1, 2 and 3 pixels
def test_boundary_iou_is_that_of_a_naive_loop(size):
    num_classes = 5
    metric, shared, either = BoundaryIoU(num_classes), np.zeros(num_classes), np.zeros(num_classes)
    for label, prediction in random_pairs(size, num_classes, sum(size)):
        metric.update(torch.from_numpy(label), torch.from_numpy(prediction))
        for k in range(num_classes):
            target, found = naive_boundary(label == k), naive_boundary((prediction == k) & (label != VOID))
            shared[k] += (target & found).sum()
            either[k] += (target | found).sum()
    iou = [a / b if b else math.nan for a, b in zip(shared, either, strict=True)]
    values = metric.compute()
    np.testing.assert_allclose(values["boundary_iou"].numpy(), iou, rtol=1e-12)
    assert values["boundary_miou"].item() == pytest.approx(mean_of_numbers(iou))
    assert math.isnan(iou[-1]) and (size == (1, 1) or 0 < mean_of_numbers(iou) < 1)


@pytest.mark.parametrize("name", METRICS)
def test_absent_classes_and_perfect_predictions(name):
    """A class absent from both is not in the mean; predicted but absent from the labels gives 0; equality gives 1."""
    (metric,) = MetricList([name]).build(4, torch.device("cpu"))
    label = torch.tensor([[0, 0, 1], [0, 0, VOID]])
    metric.update(label, label.where(label != VOID, 3))
    main, of_class = MetricList([name]).main, MetricList([name]).means[MetricList([name]).main]
    assert metric.compute()[main] == 1
    metric.update(torch.tensor([[0]]), torch.tensor([[2]]))
    values = metric.compute()
    torch.testing.assert_close(values[of_class], torch.tensor([0.8, 1, 0, math.nan]).double(), equal_nan=True)
    assert values[main].item() == pytest.approx(1.8 / 3)


@pytest.mark.parametrize("name", METRICS)
def test_states_add_up_over_images_and_empty_states_give_nan(name):
    pairs = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in random_pairs((20, 30), 5, 0)]
    whole, *parts = (METRICS[name](5) for _ in range(3))
    assert whole.compute()[MetricList([name]).main].isnan()
    for part, pair in zip(parts, pairs, strict=True):
        part.update(*pair)
        whole.update(*pair)
    assert torch.equal(whole.state, parts[0].state + parts[1].state) and whole.state.sum() > 0


def test_a_list_ranks_by_its_first_metric_and_reports_the_classes_in_a_mean():
    metrics = MetricList(["boundary_iou", "iou", "iou"])
    assert metrics.main == "boundary_miou" and metrics.mains == {"boundary_miou": "boundary mIoU", "miou": "mIoU"}
    values = {"iou": [0.5, None, 0.0], "accuracy": [None, None, 1.0], "miou": 0.25}
    assert metrics.coverage("miou", values) == "over 2 of 3 classes"
    assert metrics.coverage("mean_accuracy", values) == "over 1 of 3 classes"
    assert metrics.coverage("pixel_accuracy", values) == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["iou", "boundary_iuo"], r"no metric 'boundary_iuo'; did you mean boundary_iou\?"),
        ([], "eval_metrics: is empty; name at least one of iou"),
    ],
)
def test_other_names_are_refused(names, message):
    with pytest.raises(UserError, match=f"^{message}"):
        MetricList(names)


@pytest.mark.parametrize("name", METRICS)
def test_counts_are_integers_on_the_requested_device(name):
    (metric,) = MetricList([name]).build(3, torch.device("meta"))
    assert metric.state.device.type == "meta"
    assert metric.state.dtype == torch.int64, "float32 would lose pixels beyond 16 million"
    assert METRICS.find(name)(3).state.device.type == "cpu"


def metric(values: dict, names: dict) -> type[Metric]:
    """A metric of three classes that gives `values`."""

    def begin(self, num_classes: int, device: str = "cpu"):
        self.state = torch.zeros(1)

    return type("Odd", (Metric,), {"__init__": begin, "compute": lambda self: values, **names})


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "metric Odd: names no number"),
        ({"numbers": {}}, "metric Odd: names no number"),
        ({"numbers": ["own"]}, "metric Odd: names no number"),
        ({"numbers": {"miou": "own"}}, "metric Odd: the name 'miou' belongs to IoU; choose another one"),
        ({"numbers": {"own": "own"}, "per_class": {"iou": "IoU"}}, "the name 'iou' belongs to IoU"),
        *(({"numbers": {name: "own"}}, f"the name '{name}' belongs to results.json") for name in sorted(TAKEN)),
    ],
)
def test_names_of_values_that_are_taken_are_refused(names: dict, message: str):
    METRICS.register("odd")(metric({}, names))
    with pytest.raises(UserError, match=message):
        MetricList(["iou", "odd"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": torch.zeros(()), "c": torch.zeros(3), "m": torch.zeros(3, 3)}, None),
        ({"n": 0.5, "c": torch.zeros(3), "m": torch.zeros(3, 3)}, r"'n' is a float; it must be a tensor of shape \(\)"),
        ({"n": torch.zeros(1), "c": torch.zeros(3), "m": torch.zeros(3, 3)}, r"'n' is a Tensor of shape \(1,\); it"),
        ({"n": torch.zeros(()), "c": torch.zeros(2), "m": torch.zeros(3, 3)}, r"'c' is .* must be .* of shape \(3,\)"),
        ({"n": torch.zeros(()), "c": torch.zeros(3), "m": torch.zeros(3)}, r"'m' is .* must be .* of shape \(3, 3\)"),
    ],
)
def test_values_of_another_shape_are_refused(values: dict, message: str | None):
    odd = metric(values, {"numbers": {"n": "n"}, "per_class": {"c": "c"}, "matrices": {"m": "m"}})(3)
    if message is None:
        check_values(odd, 3)
        return
    with pytest.raises(UserError, match=f"metric Odd: {message}"):
        check_values(odd, 3)
    odd.compute = lambda: None
    with pytest.raises(UserError, match=r"metric Odd: compute\(\) gives a NoneType, not a dictionary"):
        check_values(odd, 3)
    del odd.state
    with pytest.raises(UserError, match="metric Odd: has no tensor `state`"):
        check_values(odd, 3)
