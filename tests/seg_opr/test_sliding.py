"""Sliding-window inference against the golden values and counted windows."""

import json
from functools import partial
from math import ceil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow, pad_to, starts
from tests.golden_values import each_case, load_arrays, load_case, relative_error


@each_case("sliding_city", "sliding_voc")
def test_predictions_and_scores_are_the_published_ones(name, case):
    """For the small golden network, with images and settings of all cases."""
    golden, shared = load_case(name, case), load_arrays(name)
    weight, bias = (torch.from_numpy(shared[key]).float() for key in ("conv_weight", "conv_bias"))

    def network(windows: Tensor) -> Tensor:
        maps = F.avg_pool2d(F.conv2d(windows, weight, bias, padding=2), 4, 4, ceil_mode=True)
        return F.interpolate(maps, size=windows.shape[-2:], mode="bilinear", align_corners=True)

    normalize = Normalize(shared["mean"].tolist(), shared["std"].tolist())
    window = SlidingWindow(**json.loads(str(golden["settings"])))
    scores = window.scores(golden["image"], network, normalize)
    assert (scores.argmax(0).numpy() == golden["pred"]).mean() >= 0.999
    assert (golden["scores"].size > 0) == (case in "13"), "the published scores are there for two cases"
    if case in "13":
        assert relative_error(scores.permute(1, 2, 0), golden["scores"]) < 1e-3


def ones(windows: Tensor) -> Tensor:
    """A network of one class that gives 1 everywhere."""
    return torch.ones_like(windows[:, :1])


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0.05, 1))
def test_windows_of_a_side_cover_it_and_stay_inside(crop, more, stride_rate):
    side = crop + more
    first_pixels = starts(side, crop, stride_rate)
    covered = set().union(*(range(first, first + crop) for first in first_pixels))
    assert covered == set(range(side))
    assert first_pixels == sorted(set(first_pixels))
    steps = np.diff(first_pixels)
    assert (steps <= ceil(crop * stride_rate)).all()
    assert (steps[:-1] == ceil(crop * stride_rate)).all()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(4, 32), st.sampled_from([1 / 3, 0.5, 2 / 3, 1]))
def test_every_pixel_gets_the_scores_of_all_windows_that_contain_it(height, width, crop, stride_rate):
    image = random_image(height, width)
    scores = SlidingWindow(crop=crop, stride_rate=stride_rate).scores(image, ones, Tensor.double)

    padded_height, padded_width = max(height, crop), max(width, crop)
    stride = ceil(crop * stride_rate)
    windows = np.zeros((padded_height, padded_width))
    for i in range(ceil((padded_height - crop) / stride) + 1):
        for j in range(ceil((padded_width - crop) / stride) + 1):
            y, x = min(i * stride, padded_height - crop), min(j * stride, padded_width - crop)
            windows[y : y + crop, x : x + crop] += 1
    top, left = (padded_height - height) // 2, (padded_width - width) // 2

    assert windows.min() >= 1
    np.testing.assert_array_equal(scores[0].numpy(), windows[top : top + height, left : left + width])


@pytest.mark.parametrize("size", [(30, 50), (12, 50), (50, 12), (10, 12), (16, 16)])
def test_scores_are_at_the_positions_of_their_pixels(size):
    image = random_image(*size)
    count = SlidingWindow(crop=16).scores(image, ones, Tensor.double)
    scores = SlidingWindow(crop=16).scores(image, lambda windows: windows, Tensor.double)
    np.testing.assert_allclose((scores / count).numpy(), image.transpose(2, 0, 1), rtol=1e-12)


@pytest.mark.parametrize("size", [(30, 50), (10, 12)])
def test_flip_adds_the_scores_of_the_mirrored_image(size):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    network, mirrored = (partial(F.conv2d, weight=kernel, padding=1) for kernel in (weight, weight.flip(-1)))
    image = random_image(*size)
    flipped = SlidingWindow(crop=16, flip=True).scores(image, network, Tensor.double)
    parts = [SlidingWindow(crop=16).scores(image, n, Tensor.double) for n in (network, mirrored)]
    assert relative_error(flipped, parts[0] + parts[1]) < 1e-12
    assert relative_error(parts[0], parts[1]) > 0.01


@given(st.integers(1, 9), st.booleans())
def test_images_stream_through_full_batches_in_order(batch_size, flip):
    shapes = []

    def network(windows: Tensor) -> Tensor:
        shapes.append(tuple(windows.shape))
        return windows.cumsum(-1)

    sizes = [(40, 33), (10, 12), (16, 50), (16, 16), (12, 20)]
    images = [(random_image(*size, seed), f"image {seed}") for seed, size in enumerate(sizes)]
    settings = {"crop": 16, "scales": (0.5, 1, 1.5), "flip": flip}
    alone = [SlidingWindow(**settings).scores(image, network, Tensor.double) for image, _ in images]
    windows = len(shapes) // (1 + flip)
    shapes.clear()

    found = list(SlidingWindow(**settings, batch_size=batch_size).stream(iter(images), network, Tensor.double))

    assert [tag for tag, _ in found] == [tag for _, tag in images]
    for (_, (scores,)), expected in zip(found, alone, strict=True):
        assert relative_error(scores, expected) < 1e-12
    sizes_of_batches = [n for n, *_ in shapes[:: 1 + flip]]
    assert sum(sizes_of_batches) == windows
    assert set(sizes_of_batches[:-1]) <= {batch_size}
    assert {shape[1:] for shape in shapes} == {(3, 16, 16)}


def test_scores_of_an_image_are_returned_as_soon_as_its_windows_are_done():
    taken = []

    def images():
        for number in range(4):
            taken.append(number)
            yield random_image(16, 16), number

    stream = SlidingWindow(16, batch_size=2).stream(images(), ones, Tensor.double)
    assert next(stream)[0] == 0
    assert taken == [0, 1]


def test_scales_are_summed_at_the_size_of_the_image():
    image = random_image(20, 26)
    scores = SlidingWindow(crop=64, scales=(0.5, 1, 1.75)).scores(image, ones, Tensor.double)
    assert scores.shape == (1, 20, 26)
    torch.testing.assert_close(scores, torch.full_like(scores, 3))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 3)])
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.75])
def test_an_image_of_a_pixel_has_scores_at_every_scale(size, scale):
    image = random_image(*size)
    scores = SlidingWindow(8, scales=(scale,)).scores(image, lambda windows: windows, Tensor.double)
    assert scores.shape == (3, *size) and scores.isfinite().all()
    if size == (1, 1):
        assert scores.flatten().tolist() == image.flatten().tolist()


def test_padding_of_a_single_window_is_zero_after_normalisation_and_of_many_before():
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    SlidingWindow(crop=16).scores(random_image(10, 12), network, lambda images: images.double() + 1000)
    SlidingWindow(crop=16).scores(random_image(10, 40), network, lambda images: images.double() + 1000)
    assert (seen[0][..., 0] == 0).all()
    assert (seen[1][..., 0, :] == 1000).all()


@pytest.mark.parametrize(
    "size, before, after", [((5, 7), (1, 0), (2, 1)), ((8, 8), (0, 0), (0, 0)), ((9, 6), (0, 1), (0, 1))]
)
def test_the_odd_row_or_column_of_the_padding_goes_to_the_bottom_or_right(size, before, after):
    padded = pad_to(torch.ones(1, 3, *size), 8)
    assert padded.shape[-2:] == tuple(max(side, 8) for side in size)
    rows, columns = padded[0, 0].amax(1), padded[0, 0].amax(0)
    for line, first, last in zip((rows, columns), before, after, strict=True):
        assert line.tolist() == [0] * first + [1] * (len(line) - first - last) + [0] * last


def plain_sums(image: np.ndarray, crop: int, stride_rate: float, weight: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
    """Sums of scores and their counts, in whole maps, window by window."""
    sums, counts = torch.zeros(len(weight), *image.shape[:2]), torch.zeros(image.shape[:2])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for y in starts(image.shape[0], crop, stride_rate):
        for x in starts(image.shape[1], crop, stride_rate):
            window = pixels[..., y : y + crop, x : x + crop]
            scores = F.conv2d(window, weight, padding=1)
            if flip:
                scores = scores + F.conv2d(window.flip(-1), weight, padding=1).flip(-1)
            sums[:, y : y + crop, x : x + crop] += scores[0]
            counts[y : y + crop, x : x + crop] += 1 + flip
    return sums, counts


@pytest.mark.parametrize("stride_rate", [0.3, 2 / 3, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_reduced_rows_equal_those_of_the_whole_sums(stride_rate, flip):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    image = random_image(150, 41)
    window = SlidingWindow(24, stride_rate, flip=flip)
    network = partial(F.conv2d, weight=weight, padding=1)
    ((_, maps),) = window.stream(
        [(image, None)],
        network,
        Tensor.float,
        lambda sums, counts: (sums.argmax(0), (sums / counts).softmax(0), counts),
    )
    sums, counts = plain_sums(image, 24, stride_rate, weight, flip)
    labels, probabilities, found_counts = maps
    assert torch.equal(labels, sums.argmax(0))
    assert torch.equal(found_counts, counts)
    # With vector instructions, the last digit of a soft-max depends on the position of its rows.
    torch.testing.assert_close(probabilities, (sums / counts).softmax(0), rtol=1e-6, atol=0)


def test_sums_are_kept_for_the_rows_of_one_window_only():
    """Measured by the elements of the largest tensor that an operation creates."""
    image, crop, classes = random_image(400, 60), 20, 30
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    def network(windows: Tensor) -> Tensor:
        return windows[:, :1].expand(-1, classes, -1, -1)

    with Sizes():
        ((_, (labels,)),) = SlidingWindow(crop).stream(
            [(image, None)], network, Tensor.float, lambda sums, _: (sums.argmax(0).to(torch.uint8),)
        )
    assert labels.shape == (400, 60)
    assert largest == max((classes + 1) * crop * 60, image.size) < classes * 400 * 60 / 5
