"""Plots of the report, as SVG for its page."""

from collections import Counter
from collections.abc import Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from furnace.utils.fonts import missing_glyphs_ignored, plot_style, shortened

STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's fonts
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}
DASHES = ("-", "--", ":", "-.")  # of the lines of one branch
COLOURS = {"1": "#1f6fb4", "2": "#d1661f", "both": "#3f8f3f"}
LARGEST_WITH_NUMBERS = 21  # classes
SMOOTHED_TO = 200  # points of a training curve
HEIGHT_PER_CLASS = 0.24


def epochs_plot(entries: Sequence[dict], names: Sequence[str], value: str, title: str) -> str:
    """A value of entries in percent over epochs: one line per name, of which each entry has one. Entries without the
    value are left out."""
    lines: dict[str, list[dict]] = {}
    for entry, name in zip(entries, names, strict=True):
        if entry.get(value) is not None:
            lines.setdefault(name, []).append(entry)
    drawn = Counter()
    with mpl.rc_context({**STYLE, **plot_style(names)}):
        figure, axes = new_figure(6, 3)
        for name in sorted(lines):
            points = sorted((entry["epoch"], 100 * entry[value]) for entry in lines[name])
            branch = lines[name][0]["branch"]
            dashes = DASHES[drawn[branch] % len(DASHES)]
            axes.plot(*zip(*points, strict=True), marker="o", linestyle=dashes, label=name, color=COLOURS.get(branch))
            drawn[branch] += 1
        axes.set(xlabel="epoch", ylabel=f"{title} (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if lines:
            axes.legend(frameon=False)
        return to_svg(figure)


def bars_plot(names: Sequence[str], values: Sequence[float | None], mean: float | None, title: str) -> str:
    """A value in percent of every class, in the classes' order, and their mean as a line."""
    names = list(map(shortened, names))
    with mpl.rc_context({**STYLE, **plot_style(names)}):
        figure, axes = new_figure(6, 0.8 + HEIGHT_PER_CLASS * len(names))
        bars = axes.barh(range(len(names)), [100 * (value or 0) for value in values], color=COLOURS["1"])
        axes.bar_label(bars, ["absent" if v is None else f"{100 * v:.1f}" for v in values], padding=3, fontsize=8)
        if mean is not None:
            axes.axvline(100 * mean, color="#555555", linewidth=1, linestyle="--")
        axes.set(xlim=(0, 108), xlabel=f"{title} (%), dashed: mean")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        return to_svg(figure)


def matrix_plot(names: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """A matrix of counts, labels in rows and predictions in columns, in percent of each row's sum."""
    counts = np.asarray(matrix, dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = list(map(shortened, names))
    side = 1.6 + 0.34 * len(names)
    with mpl.rc_context({**STYLE, **plot_style(names), "axes.grid": False}):
        figure, axes = new_figure(side, side)
        many = len(names) > LARGEST_WITH_NUMBERS
        # Of many classes as pixels: the paths of 150 would take 5 MB.
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.5, rasterized=many)
        if not many:
            for row, column in np.argwhere(shares >= 0.5):
                value = shares[row, column]
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value > 55 else "black",
                )
        ticks = np.arange(len(names)) + 0.5
        axes.set_xticks(ticks, names, rotation=90)
        axes.set_yticks(ticks, names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.invert_yaxis()
        axes.set_aspect("equal")
        return to_svg(figure)


def curves_plot(records: Sequence[dict], names: Sequence[str], label: str) -> str:
    """Training metrics over iterations: averages of neighbouring records, so that long runs stay legible."""
    with mpl.rc_context({**STYLE, **plot_style(names)}):
        figure, axes = new_figure(6, 2.6)
        for name in names:
            points = [(r["iteration"], r[name]) for r in records if r.get(name) is not None]
            parts = np.array_split(np.array(points, dtype=float), min(SMOOTHED_TO, len(points))) if points else []
            if parts:
                axes.plot(*np.array([part.mean(axis=0) for part in parts]).T, label=name, linewidth=1.2)
        axes.set(xlabel="iteration", ylabel=label)
        if axes.lines:
            axes.legend(frameon=False, ncols=3)
        return to_svg(figure)


def new_figure(width: float, height: float) -> tuple[Figure, mpl.axes.Axes]:
    """A figure of its own, of inches, without pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure) -> str:
    """The `<svg>` element of a figure."""
    text = StringIO()
    with missing_glyphs_ignored():
        figure.savefig(text, format="svg", metadata={"Date": None})
    content = text.getvalue()
    return content[content.index("<svg") :]
