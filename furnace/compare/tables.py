"""A comparison as Markdown, CSV, JSON and a plot."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from furnace.compare.scores import BASELINE, BEST, LAST, Row
from furnace.utils.files import write_atomically
from furnace.utils.fonts import drawable, plot_style
from furnace.utils.wording import byte_size, duration, percent

MARKDOWN, CSV, JSON, PLOT = "comparison.md", "comparison.csv", "comparison.json", "comparison.png"
TITLES = {LAST: "Last epoch", BEST: "Best epoch, chosen on the validation list"}
ABOUT = ("labels", "method", "seeds")
STATISTICS = ("std", f"minus {BASELINE}", "standard error", "95 % interval", "time", "memory")
NOTE = (
    "Values on the test set in percent, mean over the seeds and sample standard deviation; the difference to "
    f"{BASELINE} is paired by seed, with its standard error and 95 % confidence interval (Student's t). Time is "
    "one run's training and evaluation."
)
ENOUGH_SEEDS = 5
PLOT_DPI = 150


def write_files(
    folder: Path, title: str, rows: Sequence[Row], facts: dict[str, str], trials: list[dict], titles: dict[str, str]
) -> None:
    """Write all four.

    Args:
        folder: where to.
        title: of the comparison.
        rows: see `aggregate`.
        facts: what to know of it (command, test list, hardware, ...), by name.
        trials: everything known of each run.
        titles: of the metrics, by name, the one to plot first.
    """
    everything = {"title": title, **facts, "rows": [asdict(row) for row in rows], "trials": trials}
    write_atomically(folder / JSON, json.dumps(everything, indent=1).encode())
    write_atomically(folder / CSV, to_csv(rows).encode())
    write_atomically(folder / MARKDOWN, to_markdown(title, rows, facts, titles).encode())
    write_atomically(folder / PLOT, plot(title, rows, titles))


def to_markdown(title: str, rows: Sequence[Row], facts: dict[str, str], titles: dict[str, str]) -> str:
    """The page: facts, tables and plot."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    plotted = next(iter(titles.values()))
    return (
        f"# {title}\n\n{listed}\n\n{tables(rows, titles)}\n\n{NOTE}\n\n![{plotted} against labelled images]({PLOT})\n"
    )


def tables(rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Tables in Markdown, values in percent: under last and best epoch one for each metric of `titles`."""
    parts = []
    for which, heading in TITLES.items():
        chosen = [[row for row in rows if (row.which, row.metric) == (which, name)] for name in titles]
        parts += [f"## {heading}"] if any(chosen) else []
        for title, of_metric in zip(titles.values(), chosen, strict=True):
            if of_metric:
                lines = [(*ABOUT, title, *STATISTICS), *map(cells_of, of_metric)]
                parts.append("\n".join(markdown_table(lines)))
    return "\n\n".join([*parts, *filter(None, [seeds_note(rows)])])


def markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first line is the header, its columns aligned; the first two to the left, the rest to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def render(line: Sequence[str]) -> str:
        fields = (
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(fields)} |"

    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [render(lines[0]), render(rule), *map(render, lines[1:])]


def cells_of(row: Row) -> tuple[str, ...]:
    """A row as text."""
    return (
        f"{row.labeled} (1/{row.ratio})",
        row.method,
        ", ".join(map(str, row.seeds)),
        percent(row.mean),
        percent(row.std),
        percent(row.difference, signed=True),
        percent(row.standard_error),
        interval_of(row),
        duration(row.seconds),
        "-" if row.memory_gib is None else byte_size(row.memory_gib * 2**30),
    )


def interval_of(row: Row) -> str:
    """The 95 % interval of the difference, such as "+8.13 to +23.05"; "-" without one."""
    if row.interval is None:
        return "-"
    return " to ".join(percent(row.difference + side * row.interval, signed=True) for side in (-1, 1))


def seeds_note(rows: Sequence[Row]) -> str:
    """A warning about few seeds, "" if there are enough."""
    fewest = min((len(row.seeds) for row in rows), default=ENOUGH_SEEDS)
    if fewest >= ENOUGH_SEEDS:
        return ""
    return (
        f"With {fewest} seed{'s' if fewest > 1 else ''} a difference says little: other seeds may turn its sign. "
        f"Use {ENOUGH_SEEDS} or more."
    )


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row, values as shares; seeds separated by blanks."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(row), "seeds": " ".join(map(str, row.seeds))} for row in rows)
    return text.getvalue()


def plot(title: str, rows: Sequence[Row], titles: dict[str, str]) -> bytes:
    """The first of the metrics `titles` against the number of labelled images as PNG, a panel each for last and best
    epoch, bars of one std."""
    # Not pyplot: it would look for a screen and keep the figure.
    import matplotlib as mpl

    with mpl.rc_context(plot_style([title, *(row.method for row in rows)])):
        return _plot(drawable(title), rows, titles)


def _plot(title: str, rows: Sequence[Row], titles: dict[str, str]) -> bytes:
    from matplotlib.figure import Figure

    plotted = next(iter(titles))
    rows = [row for row in rows if row.metric == plotted]
    kinds = [which for which in TITLES if any(row.which == which for row in rows)]
    figure = Figure(figsize=(1 + 5 * len(kinds), 4), layout="constrained")
    panels: list[Any] = list(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0])
    methods = list(dict.fromkeys(row.method for row in rows))
    for axes, which in zip(panels, kinds, strict=True):
        for method in methods:
            chosen = sorted((r for r in rows if (r.method, r.which) == (method, which)), key=lambda r: r.labeled)
            axes.errorbar(
                [row.labeled for row in chosen],
                [100 * row.mean for row in chosen],
                [100 * (row.std or 0) for row in chosen],
                marker="o",
                capsize=3,
                label=drawable(method),
            )
        counts = {row.labeled: row.ratio for row in rows}
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(counts), [f"{labeled}\n1/{ratio}" for labeled, ratio in counts.items()])
        axes.minorticks_off()
        axes.set(title=TITLES[which], xlabel="labelled images")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"test {titles[plotted]}, %")
    # Given by name, labels with a leading "_" are shown, too.
    panels[0].legend(panels[0].containers, list(map(drawable, methods)))
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PLOT_DPI)
    return buffer.getvalue()
