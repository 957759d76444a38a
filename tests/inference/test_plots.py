"""Plots of the report: SVG whose texts are the class names, whatever they are made of, and no flood of warnings."""

import warnings
from xml.etree import ElementTree

import pytest

from furnace.inference.plots import bars_plot, epochs_plot, matrix_plot

NAMES = ["US$5_$10", "_leading", "a<b>&c</script>", "50 %", "{x}", "a\\b", "背景", "طريق", "हिन्दी", "🙂"]


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")
    ]


@pytest.mark.parametrize("plot", ["bars", "matrix"])
def test_class_names_are_texts_as_they_are(plot):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if plot == "bars":
            svg = bars_plot(NAMES, [0.5] * len(NAMES), 0.5, "IoU")
        else:
            svg = matrix_plot(NAMES, [[1] * len(NAMES)] * len(NAMES))
    assert set(NAMES) <= set(texts(svg))
    assert "</script>" not in svg


def test_a_list_of_any_name_is_in_the_legend():
    entries = [{"epoch": epoch, "iou": 0.5, "branch": "1"} for epoch in (1, 2)]
    assert "branch 1, list 背景$a$" in texts(epochs_plot(entries, ["branch 1, list 背景$a$"] * 2, "iou", "mIoU"))


def test_long_names_leave_room_for_the_plot():
    svg = bars_plot(["n" * 100, "b"], [0.5, 0.5], None, "IoU")
    assert any(text.startswith("nnn") and text.endswith("...") for text in texts(svg))


@pytest.mark.parametrize("count, pictures", [(21, 0), (150, 1)])
def test_the_cells_of_many_classes_are_one_picture(count, pictures):
    svg = matrix_plot([f"class {number}" for number in range(count)], [[1] * count] * count)
    assert svg.count("<image") == pictures
    assert len(svg) < 10**6
