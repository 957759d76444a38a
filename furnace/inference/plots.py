"""Plots for pages: SVG in the page's colours, light or dark."""

from collections import Counter
from collections.abc import Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from furnace.utils.fonts import missing_glyphs_ignored, plot_style

# Placeholders for the colours of the style sheet, which replace them in the SVG.
INK, LINE = "#010203", "#040506"
SERIES = tuple(f"#0708{number:02x}" for number in range(1, 7))
THEME = {INK: "currentColor", LINE: "var(--line)", **{c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}}
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's fonts
    "svg.hashsalt": "",  # equal plots give equal text
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.prop_cycle": mpl.cycler(color=SERIES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "legend.frameon": False,
}
SIZE = (4.6, 2.7)  # inches; on a phone the text is not smaller than the page's notes
DASHES = ("-", "--", ":", "-.")  # line styles within one branch
BRANCHES = ("1", "2", "both", "3", "4")  # one colour per branch
SMOOTHED_TO = 200  # points per training curve


def epochs_plot(entries: Sequence[dict], names: Sequence[str], value: str, title: str) -> str:
    """SVG plot of a value of entries, in percent, over epochs.

    `names` has the line name of each entry. Entries without the value are left out.
    """
    lines: dict[str, list[dict]] = {}
    for entry, name in zip(entries, names, strict=True):
        if entry.get(value) is not None:
            lines.setdefault(name, []).append(entry)
    drawn = Counter()
    with mpl.rc_context({**STYLE, **plot_style(names)}):
        figure, axes = new_figure()
        for name in sorted(lines):
            points = sorted((entry["epoch"], 100 * entry[value]) for entry in lines[name])
            branch = lines[name][0]["branch"]
            dashes = DASHES[drawn[branch] % len(DASHES)]
            colour = SERIES[BRANCHES.index(branch)] if branch in BRANCHES else None
            axes.plot(*zip(*points, strict=True), marker="o", linestyle=dashes, label=name, color=colour)
            drawn[branch] += 1
        axes.set(xlabel="epoch", ylabel=f"{title} (%)")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if lines:
            axes.legend()
        return to_svg(figure)


def curves_plot(records: Sequence[dict], names: Sequence[str], label: str) -> str:
    """SVG plot of training metrics over iterations; averages of neighbouring records keep long runs readable."""
    with mpl.rc_context({**STYLE, **plot_style(names)}):
        figure, axes = new_figure()
        for name in names:
            points = [(r["iteration"], r[name]) for r in records if r.get(name) is not None]
            parts = np.array_split(np.array(points, dtype=float), min(SMOOTHED_TO, len(points))) if points else []
            if parts:
                marker = "o" if len(parts) == 1 else None  # a line with one point is invisible
                axes.plot(*np.array([part.mean(axis=0) for part in parts]).T, label=name, linewidth=1.3, marker=marker)
        axes.set(xlabel="iteration", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if axes.lines:
            figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        return to_svg(figure)


def new_figure() -> tuple[Figure, mpl.axes.Axes]:
    """A figure and its axes, without pyplot's global state."""
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure) -> str:
    """The `<svg>` element of a figure drawn with `STYLE`, without a background."""
    text = StringIO()
    with missing_glyphs_ignored():
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    content = text.getvalue()
    for colour, themed in THEME.items():
        content = content.replace(colour, themed)
    return content[content.index("<svg") :]
