"""The words for counts, names, shares, sizes and times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.utils.wording import byte_size, counted, duration, few, percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0258, "26 ms"),
        (2.154, "2.15 s"),
        (45.2, "45 s"),
        (600, "10 min"),
        (9000, "2.5 h"),
        (100000, "27.8 h"),
        (7.2e6, "2,000.0 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**51, "2048.0 TiB"),
    ],
)
def test_sizes(count, text):
    assert byte_size(count) == text


@given(st.integers(1024, 2**50 - 1))
def test_sizes_have_the_largest_unit_that_fits(count):
    number, unit = byte_size(count).split()
    factor = 1024 ** (1 + ("KiB", "MiB", "GiB", "TiB").index(unit))
    assert 1 <= count / factor < 1024
    assert float(number) == pytest.approx(count / factor, abs=0.05)


@pytest.mark.parametrize(("share", "text"), [(0.7374, "73.74"), (-0.01, "-1.00"), (None, "-"), (math.nan, "-")])
def test_shares(share, text):
    assert percent(share) == text


def test_a_signed_share_says_so():
    assert percent(0.01, signed=True) == "+1.00"


def test_few_names_and_how_many_more():
    assert few("abc") == "a, b, c" and few("abcd") == "a, b, c and 1 more" and few([1, 2], shown=1) == "1 and 1 more"


def test_one_image_and_two_images():
    assert counted("a", "image") == "1 image" and counted("ab", "image") == "2 images"
