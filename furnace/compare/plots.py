"""Plots of a comparison: a metric against the number of labelled images, with error bars."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from furnace.compare.scores import TITLES, Row
from furnace.inference.plots import STYLE, to_svg
from furnace.utils.fonts import drawable, plot_style, shortened

PLOT_DPI = 150
MARGIN = 1.4  # of the number of labels, on both sides
DODGE = 0.05  # offset of neighbouring methods in doublings of the labels: keeps error bars apart


def plot(title: str, rows: Sequence[Row], titles: dict[str, str]) -> bytes:
    """PNG plot of the first metric of `titles`: one panel each for last and best epoch, error bars of one std."""
    metric = next(iter(titles))
    with mpl.rc_context(plot_style([title, *(row.method for row in rows)])):
        figure = draw(rows, metric, titles[metric], lambda method: shortened(drawable(method)))
        figure.suptitle(drawable(title))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=PLOT_DPI)
    return buffer.getvalue()


def curves(rows: Sequence[Row], metric: str, title: str) -> str:
    """SVG plot of one metric, otherwise as `plot`, in the colours of a page."""
    with mpl.rc_context({**STYLE, **plot_style([row.method for row in rows])}):
        return to_svg(draw(rows, metric, title, shortened))


def draw(rows: Sequence[Row], metric: str, title: str, shown: Callable[[str], str]) -> Figure:
    """The figure; `shown` gives the legend text of a method."""
    rows = [row for row in rows if row.metric == metric]
    kinds = [which for which in TITLES if any(row.which == which for row in rows)]
    # Not pyplot, which would look for a screen and keep the figure.
    figure = Figure(figsize=(1 + 5 * max(len(kinds), 1), 4), layout="constrained")
    panels = list(figure.subplots(1, max(len(kinds), 1), sharey=True, squeeze=False)[0])
    methods = list(dict.fromkeys(row.method for row in rows))
    for axes, which in zip(panels, kinds, strict=False):
        for number, method in enumerate(methods):
            aside = 2 ** (DODGE * (number - (len(methods) - 1) / 2))
            chosen = sorted((r for r in rows if (r.method, r.which) == (method, which)), key=lambda r: r.labeled)
            axes.errorbar(
                [aside * row.labeled for row in chosen],
                [100 * row.mean for row in chosen],
                [100 * (row.std or 0) for row in chosen],
                marker="o",
                capsize=3,
                label=shown(method),
            )
        counts = {row.labeled: row.ratio for row in rows}
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(counts), [f"{labeled}\n1/{ratio}" for labeled, ratio in counts.items()])
        axes.minorticks_off()
        axes.set_xlim(min(counts) / MARGIN, max(counts) * MARGIN)
        axes.set(title=TITLES[which], xlabel="labelled images")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"test {title}, %")
    # With explicit labels, those with a leading "_" are shown, too.
    panels[0].legend(panels[0].containers, list(map(shown, methods)))
    return figure
