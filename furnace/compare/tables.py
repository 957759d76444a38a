"""Write a comparison as Markdown, CSV, JSON, a plot and an HTML page."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from furnace.compare.plots import curves, plot
from furnace.compare.runner import TEST
from furnace.compare.scores import BASELINE, TITLES, Row
from furnace.engine.record import REPORT
from furnace.inference.page import render
from furnace.utils.files import write_atomically
from furnace.utils.wording import byte_size, duration, percent

MARKDOWN, CSV, JSON, PLOT = "comparison.md", "comparison.csv", "comparison.json", "comparison.png"
PAGE, TEMPLATE = "comparison.html", "comparison.html.j2"
ABOUT = ("labels", "method", "seeds")
STATISTICS = ("std", f"minus {BASELINE}", "standard error", "95 % interval", "time", "memory")
NOTE = (
    "Values on the evaluation images in percent: mean over the seeds and sample standard deviation (error bars in "
    f"plots). The difference to {BASELINE} is paired by seed, with its standard error and 95 % confidence interval "
    "(Student's t). Time is for training and evaluation of one run."
)
ENOUGH_SEEDS = 5


def write_files(
    folder: Path, title: str, rows: Sequence[Row], facts: dict[str, str], trials: list[dict], titles: dict[str, str]
) -> None:
    """Write all five files.

    Args:
        folder: for the files.
        title: of the comparison.
        rows: see `aggregate`.
        facts: facts about it (command, test list, hardware, ...), by name.
        trials: all data of each run.
        titles: of the metrics, by name; the PNG shows the first one.
    """
    everything = {"title": title, **facts, "rows": [asdict(row) for row in rows], "trials": trials}
    write_atomically(folder / JSON, json.dumps(everything, indent=1).encode())
    write_atomically(folder / CSV, to_csv(rows).encode())
    write_atomically(folder / MARKDOWN, to_markdown(title, rows, facts, titles).encode())
    write_atomically(folder / PLOT, plot(title, rows, titles))
    write_atomically(folder / PAGE, to_html(folder, title, rows, facts, trials, titles))


def to_markdown(title: str, rows: Sequence[Row], facts: dict[str, str], titles: dict[str, str]) -> str:
    """The Markdown page: facts, tables and plot."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    plotted = next(iter(titles.values()))
    return (
        f"# {title}\n\n{listed}\n\n{tables(rows, titles)}\n\n{NOTE}\n\n![{plotted} against labelled images]({PLOT})\n"
    )


def to_html(
    folder: Path, title: str, rows: Sequence[Row], facts: dict[str, str], trials: list[dict], titles: dict[str, str]
) -> bytes:
    """The HTML page, with links to the reports of the trials in `folder`."""
    reports = [f"{trial['folder']}/{TEST}/{REPORT}" for trial in trials]
    return render(
        TEMPLATE,
        Path(__file__).parent,
        svg={name: curves(rows, name, title) for name, title in titles.items()},
        title=f"{title}: comparison",
        sections={
            name: {which: lines for which in TITLES if (lines := lines_of(rows, which, name))} for name in titles
        },
        head=(*ABOUT, *STATISTICS),
        about=len(ABOUT),
        titles=titles,
        kinds=TITLES,
        notes=[NOTE, *filter(None, [seeds_note(rows)])],
        facts=facts,
        trials=[
            (trial, report if (folder / report).is_file() else None)
            for trial, report in zip(trials, reports, strict=True)
        ],
    )


def lines_of(rows: Sequence[Row], which: str, metric: str) -> list[tuple[tuple[str, ...], bool]]:
    """The cells of each row of a table, and True if its method is the best with as many labels."""
    chosen = [row for row in rows if (row.which, row.metric) == (which, metric)]
    best = {row.ratio: max(other.mean for other in chosen if other.ratio == row.ratio) for row in chosen}
    return [(cells_of(row), row.mean == best[row.ratio]) for row in chosen]


def tables(rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Markdown tables, values in percent: for last and best epoch, one per metric of `titles`."""
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
    """A table with the first line as header; the first two columns are left-aligned, the others right-aligned."""
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
        f"With {fewest} seed{'s' if fewest > 1 else ''} a difference is not reliable: other seeds may change its sign. "
        f"Use {ENOUGH_SEEDS} or more."
    )


def to_csv(rows: Sequence[Row]) -> str:
    """CSV with one line per row; values as shares, seeds separated by spaces."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(row), "seeds": " ".join(map(str, row.seeds))} for row in rows)
    return text.getvalue()
