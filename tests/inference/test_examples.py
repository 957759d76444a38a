"""Example images: their choice, their pictures, and IoU and errors per class."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from furnace.datasets.catalog import Classes
from furnace.inference.examples import (
    EXAMPLE_HEIGHT,
    Example,
    choose_examples,
    errors_of,
    example_row,
    frequent_errors,
    labels_uri,
    photo_uri,
)

CLASSES = Classes(("sky", "road", "car"), ((0, 0, 0), (200, 0, 0), (0, 200, 0)))


def decoded(uri: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_all_images_are_shown_if_they_are_few_worst_first():
    assert choose_examples([0.5, None, 0.1, 0.9], torch.ones(4, 2, dtype=torch.bool)) == [2, 0, 3]


def test_of_many_images_the_worst_the_best_and_every_class_are_shown():
    scores = [i / 200 for i in range(200)]
    shows = torch.zeros(200, 5, dtype=torch.bool)
    shows[:, 0] = True
    shows[[97, 103], 3] = True
    shows[111, 2] = True
    chosen = choose_examples(scores, shows, 20)
    assert len(set(chosen)) == 20 and chosen == sorted(chosen)
    assert {*range(6), *range(194, 200), 97, 111} <= set(chosen)
    middle = [i for i in chosen if 6 <= i < 194 and i not in (97, 111)]
    assert len(middle) == 6 and np.diff([6, *middle, 194]).max() < 50, "spread over all scores"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_never_more_than_asked_for(count):
    chosen = choose_examples([0.5] * 50, torch.eye(50, 40).bool(), count)
    assert len(set(chosen)) == count


def test_iou_and_errors_of_an_example_are_naive_counts():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 3, (2, 20, 30), dtype=np.uint8)
    label[:5] = 255
    prediction[prediction == 2] = 0
    row = example_row(Example("a", 0.5, np.zeros((20, 30, 3), np.uint8), label, prediction), CLASSES)
    valid = label != 255
    for k in range(3):
        both = ((label == k) & (prediction == k) & valid).sum()
        either = (((label == k) | (prediction == k)) & valid).sum()
        assert row["iou"][k] == pytest.approx(both / either, abs=1e-4)
    expected = {f"{i}-{j}": ((label == i) & (prediction == j)).sum() for i in range(3) for j in range(2) if i != j}
    assert row["errors"] == expected
    wrong = np.asarray(decoded(row["pictures"]["errors"]).convert("RGBA"))[..., 3] > 0
    np.testing.assert_array_equal(wrong, (label != prediction) & valid)


def test_small_errors_do_not_count():
    confusion = torch.tensor([[985, 5, 4], [0, 6, 0], [0, 0, 0]])
    assert errors_of(confusion) == {"0-1": 5}
    rows = [{"errors": {"0-1": 5, "1-2": 1}}, {"errors": {"1-2": 9}}]
    assert frequent_errors(rows, CLASSES.names) == {"1-2": "road predicted as car", "0-1": "sky predicted as road"}


def test_pictures_of_an_example_are_what_their_names_say():
    image = np.full((8, 8, 3), 9, np.uint8)
    example = Example("a", 0.5, image, label=np.zeros((8, 8), np.uint8), prediction=np.ones((8, 8), np.uint8))
    pictures = {name: decoded(uri) for name, uri in example_row(example, CLASSES)["pictures"].items()}
    assert pictures["image"].getpixel((3, 3)) == (9, 9, 9)
    assert pictures["prediction"].convert("RGBA").getpixel((3, 3)) == (200, 0, 0, 255)
    assert pictures["truth"].convert("RGBA").getpixel((3, 3))[3] == 0, "black lets the image through"


def test_large_pictures_are_scaled_down():
    assert decoded(photo_uri(np.zeros((1000, 2000, 3), np.uint8))).size == (2 * EXAMPLE_HEIGHT, EXAMPLE_HEIGHT)
    palette = np.array([(0, 0, 0), (9, 8, 7)], np.uint8)
    assert decoded(labels_uri(np.ones((1000, 2000), np.uint8), palette)).size == (2 * EXAMPLE_HEIGHT, EXAMPLE_HEIGHT)
