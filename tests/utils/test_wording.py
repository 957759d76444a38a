"""The words for counts, names, shares, sizes and times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.utils.wording import byte_size, counted, duration, few, percent


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (duration(None), "-"),
        (duration(0.0258), "26 ms"),
        (duration(2.154), "2.15 s"),
        (duration(45.2), "45 s"),
        (duration(600), "10 min"),
        (duration(9000), "2.5 h"),
        (duration(100000), "27.8 h"),
        (duration(7.2e6), "2,000.0 h"),
        (byte_size(0), "0 bytes"),
        (byte_size(1023), "1023 bytes"),
        (byte_size(1024), "1.0 KiB"),
        (byte_size(1536), "1.5 KiB"),
        (byte_size(3 * 2**30), "3.0 GiB"),
        (byte_size(2**51), "2048.0 TiB"),
        (percent(0.7374), "73.74"),
        (percent(-0.01), "-1.00"),
        (percent(None), "-"),
        (percent(math.nan), "-"),
        (percent(0.01, signed=True), "+1.00"),
        (few("abc"), "a, b, c"),
        (few("abcd"), "a, b, c and 1 more"),
        (few([1, 2], shown=1), "1 and 1 more"),
        (counted(1, "image"), "1 image"),
        (counted(2, "image"), "2 images"),
    ],
)
def test_words(written, text):
    assert written == text


@given(st.integers(1024, 2**50 - 1))
def test_sizes_have_the_largest_unit_that_fits(count):
    number, unit = byte_size(count).split()
    factor = 1024 ** (1 + ("KiB", "MiB", "GiB", "TiB").index(unit))
    assert 1 <= count / factor < 1024
    assert float(number) == pytest.approx(count / factor, abs=0.05)
