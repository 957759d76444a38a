"""Plots of the report: SVG in the page's colours, with texts unchanged and without warnings."""

import re
import warnings
from xml.etree import ElementTree

import pytest

from furnace.inference.plots import THEME, curves_plot, epochs_plot

NAMES = ["US$5_$10", "_leading", "a<b>&c</script>", "50 %", "{x}", "a\\b", "背景", "طريق", "हिन्दी", "🙂"]


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_appear_unchanged(name):
    entries = [{"epoch": epoch, "iou": 0.5, "branch": "1"} for epoch in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = epochs_plot(entries, [f"branch 1, list {name}"] * 2, "iou", "mIoU")
    assert f"branch 1, list {name}" in texts(svg) and "</script>" not in svg


def test_colours_are_those_of_the_page():
    records = [{"iteration": i, **{f"loss_{k}": i * k for k in range(6)}} for i in range(3)]
    svg = curves_plot(records, [f"loss_{k}" for k in range(6)], "loss")
    assert not any(colour in svg for colour in THEME)
    used = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert used - {"none"} == set(THEME.values()), "no colour of its own, no background"


def test_a_curve_of_one_record_is_a_point():
    assert "<use " in curves_plot([{"iteration": 3, "loss": 1.0}], ["loss"], "loss").split('id="line2d_', 1)[1]
