"""Statistics of a comparison against textbook formulas, and its tables read back."""

import csv
import io
import math
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from furnace.compare.plots import curves, draw, plot
from furnace.compare.scores import Row, Score, aggregate, paired_difference
from furnace.compare.tables import cells_of, tables, to_csv

SHARES = st.floats(0, 1)
METHODS = ("supervised", "cps", "cpcl")
TITLES = {"miou": "mIoU"}


@given(st.dictionaries(st.integers(0, 9), st.tuples(SHARES, SHARES), min_size=2, max_size=6))
def test_mean_deviation_and_paired_difference(values):
    """Against explicit sums."""
    scores = [
        Score(method, 8, seed, 45, {"last": {"miou": pair[k]}}, seconds=10 * k + seed, memory_gib=k + seed)
        for seed, pair in values.items()
        for k, method in enumerate(("supervised", "cpcl"))
    ]
    supervised, cpcl = aggregate(scores)
    own, base, n = [b for _, b in values.values()], [a for a, _ in values.values()], len(values)
    mean = sum(own) / n
    assert cpcl.mean == pytest.approx(mean)
    assert cpcl.std == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in own) / (n - 1)), abs=1e-9)
    apart = [a - b for a, b in zip(own, base, strict=True)]
    assert cpcl.difference == pytest.approx(sum(apart) / n, abs=1e-12)
    variance = sum((d - sum(apart) / n) ** 2 for d in apart) / (n - 1)
    assert cpcl.standard_error == pytest.approx(math.sqrt(variance / n), abs=1e-9)
    assert cpcl.interval == pytest.approx(stats.t.ppf(0.975, n - 1) * math.sqrt(variance / n), abs=1e-8)
    assert cpcl.seconds == pytest.approx(sum(10 + seed for seed in values) / n)
    assert cpcl.memory_gib == 1 + max(values)
    assert (supervised.difference, supervised.standard_error, supervised.interval) == (None, None, None)


def test_pairs_have_the_same_seed() -> None:
    difference, error, interval = paired_difference({0: 0.5, 1: 0.9, 2: 0.1}, {1: 0.8, 2: 0.2, 3: 0.0})
    assert difference == pytest.approx(0)
    assert error == pytest.approx(0.1 * math.sqrt(2) / math.sqrt(2))
    assert interval == pytest.approx(12.706 * error, rel=1e-4), "Student's t of one degree of freedom"
    assert paired_difference({0: 0.5}, {0: 0.3}) == (pytest.approx(0.2), None, None)
    assert paired_difference({0: 0.5}, {1: 0.3}) == (None, None, None)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_the_interval_is_that_of_a_paired_t_test(values: list[float]) -> None:
    base = [0.5 + 0.1 * number for number in range(len(values))]
    found = stats.ttest_rel(values, base).confidence_interval(0.95)
    difference, _, interval = paired_difference(dict(enumerate(values)), dict(enumerate(base)))
    assert [difference - interval, difference + interval] == pytest.approx(list(found), abs=1e-9)


def example() -> list[Row]:
    rng = np.random.default_rng(0)
    scores = [
        Score(method, ratio, seed, 360 // ratio, {"last": {"miou": x}, "best": {"miou": x + 0.01}}, 200.0, 1.5)
        for ratio in (16, 8, 4)
        for method in METHODS
        for seed in (0, 1, 2)
        for x in [0.3 + 0.1 * METHODS.index(method) + 0.5 / ratio + 0.01 * rng.normal()]
    ]
    return aggregate(scores)


def test_rows_are_in_order_and_one_seed_has_no_deviation():
    rows = example()
    assert [row.which for row in rows] == ["last"] * 9 + ["best"] * 9
    assert [(row.labeled, row.method) for row in rows[:9]] == [(n, m) for n in (22, 45, 90) for m in METHODS]
    (single,) = aggregate([Score("cpcl", 8, 3, 45, {"last": {"miou": 0.5}}, 1.0, None)])
    assert single.std is None and single.difference is None and single.memory_gib is None
    assert single.seeds == (3,)


def test_cells_with_different_runs_do_not_mix():
    """A run without a chosen epoch is only in the first table; a baseline has the same share of labels."""
    scores = [
        Score("supervised", 8, 0, 45, {"last": {"miou": 0.3}, "best": {"miou": 0.4}}, 1.0, None),
        Score("cpcl", 8, 0, 45, {"last": {"miou": 0.5}}, 1.0, None),
        Score("cpcl", 4, 0, 90, {"last": {"miou": 0.6}}, 1.0, None),
    ]
    rows = aggregate(scores)
    assert [(row.which, row.method, row.ratio) for row in rows] == [
        ("last", "supervised", 8),
        ("last", "cpcl", 8),
        ("last", "cpcl", 4),
        ("best", "supervised", 8),
    ]
    assert [row.difference for row in rows] == [None, pytest.approx(0.2), None, None]


def test_csv_has_the_values_of_the_rows():
    rows = example()
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(read) == len(rows)
    for line, row in zip(read, rows, strict=True):
        assert line["method"] == row.method and line["which"] == row.which and line["seeds"] == "0 1 2"
        assert float(line["mean"]) == row.mean
        assert line["difference"] == ("" if row.difference is None else str(row.difference))


def test_markdown_has_a_table_each_with_percent_points():
    rows = example()
    text = tables(rows, TITLES)
    last, best = text.split("## Best epoch")
    for part in (last, best):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + 9
        assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
    assert f"{100 * rows[2].mean:.2f}" in last and f"{100 * rows[2].difference:+.2f}" in last
    assert cells_of(rows[0])[0] == "22 (1/16)"


def test_every_method_is_in_the_legend_of_the_plot(monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    rows = [replace(row, method=f"_{row.method}$a$") for row in example()]
    plot("US$5_$10, 背景", rows, TITLES)
    (figure,) = figures
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == list(dict.fromkeys(row.method for row in rows))
    assert figure.get_suptitle().startswith("US$5_$10, ") and not figure._suptitle.get_parse_math()


def test_error_bars_are_one_deviation_on_each_side():
    rows = example()
    panels = draw(rows, "miou", "mIoU", str).axes
    for panel, which in zip(panels, ("last", "best"), strict=True):
        for method, container in zip(METHODS, panel.containers, strict=True):
            chosen = [row for row in rows if (row.which, row.method) == (which, method)]
            bars = np.array(container[2][0].get_segments())
            expected = [[100 * (row.mean + side * row.std) for side in (-1, 1)] for row in chosen]
            np.testing.assert_allclose(bars[..., 1], expected)
            np.testing.assert_allclose(bars[..., 0], [[row.labeled] * 2 for row in chosen], rtol=0.1)


def test_the_curves_of_the_page_name_every_method():
    svg = curves(example(), "miou", "mIoU")
    assert [text for text in re.findall(r">([^<]+)</text>", svg) if text in METHODS] == list(METHODS)


def test_plot_has_a_panel_for_each_kind_of_epoch():
    rows = example()
    both = cv2.imdecode(np.frombuffer(plot("t", rows, TITLES), np.uint8), cv2.IMREAD_COLOR)
    one = cv2.imdecode(np.frombuffer(plot("t", rows[:9], TITLES), np.uint8), cv2.IMREAD_COLOR)
    assert both.shape[0] == one.shape[0] and both.shape[1] > 1.5 * one.shape[1]
    assert len(np.unique(both.reshape(-1, 3), axis=0)) > 20
