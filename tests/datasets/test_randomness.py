"""Random streams and epoch orders: repeatable, independent, and fair to every image."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.randomness import Purpose, epoch_order, random_stream

SEEDS = st.integers(0, 2**32 - 1)


def test_purposes_keep_their_numbers():
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "ORDER_LABELED": 0,
        "ORDER_UNLABELED_0": 1,
        "ORDER_UNLABELED_1": 2,
        "CROP_LABELED": 3,
        "CROP_UNLABELED_0": 4,
        "CROP_UNLABELED_1": 5,
        "MASK": 6,
        "COLOUR_LABELED": 7,
        "COLOUR_TEACHER": 8,
        "COLOUR_STUDENT": 9,
        "METHOD": 10,
        "FEATURE_DROPOUT": 11,
        "BOX": 12,
        "NETWORK": 13,
    }


def test_streams_repeat_and_differ_in_each_coordinate():
    coordinates = list(product((0, 1, 12345), (0, 1, 2), (0, 1, 2), Purpose))
    draws = {c: tuple(random_stream(*c).integers(0, 2**63, 2)) for c in coordinates}
    assert draws == {c: tuple(random_stream(*c).integers(0, 2**63, 2)) for c in reversed(coordinates)}
    assert len(set(draws.values())) == len(coordinates)


@given(st.integers(1, 60), st.integers(0, 200), SEEDS)
def test_an_epoch_takes_every_image_equally_often_or_once_more(count, length, seed):
    order = epoch_order(count, length, np.random.default_rng(seed))
    taken = np.bincount(order, minlength=count)
    assert order.dtype == np.int64
    assert len(order) == length == taken.sum()
    assert len(taken) == count
    assert set(taken) <= {length // count, length // count + 1}


@given(st.integers(2, 30), st.integers(1, 10), SEEDS)
def test_every_image_of_a_list_longer_than_the_epoch_is_used_eventually(count, length, seed):
    seen = set()
    for epoch in range(60 * count // length + 60):
        seen.update(epoch_order(count, length, random_stream(seed, epoch, 0, Purpose.ORDER_UNLABELED_0)).tolist())
    assert seen == set(range(count))


def test_an_epoch_is_shuffled_as_a_whole():
    orders = [epoch_order(5, 12, np.random.default_rng(seed)) for seed in range(2000)]
    means = np.mean(orders, axis=0)
    np.testing.assert_allclose(means, 2, atol=0.2, err_msg="images prefer some place of the epoch")
