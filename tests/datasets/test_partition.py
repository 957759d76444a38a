"""Partitions: a permutation; each beginning of it shows all classes, each in its share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from furnace.datasets.partition import cover, make_partition, stratify

PRESENCE = st.tuples(st.integers(1, 40), st.integers(1, 8)).flatmap(lambda shape: arrays(bool, shape))


@given(PRESENCE, st.integers(0, 2**40))
def test_a_partition_is_a_permutation_that_begins_with_all_classes(presence, seed):
    order = make_partition(presence, seed)
    assert sorted(order) == list(range(len(presence)))
    first = order[: presence.shape[1]]
    np.testing.assert_array_equal(presence[first].any(axis=0), presence.any(axis=0))


@given(PRESENCE)
def test_every_image_of_the_cover_shows_a_new_class(presence):
    seen = np.zeros(presence.shape[1], dtype=bool)
    for image in cover(presence):
        assert (presence[image] & ~seen).any()
        seen |= presence[image]


def test_the_rarest_class_comes_first_with_the_image_that_shows_most():
    presence = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 0, 1]], dtype=bool)
    assert cover(presence) == [3]
    assert cover(presence[:3]) == [1, 2]


def test_the_order_is_the_same_on_every_machine():
    presence = np.array([[i % 2 == 0, i % 3 == 0, i == 7] for i in range(12)])
    assert make_partition(presence, 0).tolist() == [7, 6, 1, 4, 0, 5, 9, 10, 11, 2, 3, 8]
    assert make_partition(presence, 1).tolist() == [7, 6, 1, 0, 11, 4, 3, 8, 5, 10, 9, 2]


def test_every_class_has_its_share_in_every_beginning():
    rng = np.random.default_rng(0)
    shares = np.array([0.95, 0.4, 0.1, 0.06, 0.04])
    presence = rng.random((2000, len(shares))) < shares
    order = make_partition(presence, 3)
    for count in (125, 250, 500, 1000):
        taken = presence[order[:count]].sum(axis=0) / presence.sum(axis=0)
        assert taken.min() > 0.95 * count / 2000
        assert taken.max() < 1.5 * count / 2000


def test_rare_classes_are_more_frequent_than_in_random_orders():
    presence = np.random.default_rng(1).random((1600, 20)) < 0.02
    totals = presence.sum(axis=0)

    def worst(order: np.ndarray) -> float:
        return (presence[order[:100]].sum(axis=0) / totals).min()

    by_chance = max(worst(np.random.default_rng(seed).permutation(1600)) for seed in range(10))
    assert worst(make_partition(presence, 0)) > by_chance


@given(PRESENCE)
def test_images_without_a_class_are_included(presence):
    presence[::2] = False
    assert sorted(stratify(presence, cover(presence))) == list(range(len(presence)))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_seeds_differ(seed):
    presence = np.ones((50, 3), dtype=bool)
    assert make_partition(presence, seed).tolist() != make_partition(presence, seed + 1).tolist()
    assert make_partition(presence, seed).tolist() == make_partition(presence.copy(), seed).tolist()
