"""Figures of a run: the files in which they stand, one JSON object a line where they are many."""

import json
import math
from pathlib import Path

from furnace.utils.files import append

FIGURES = "figures.jsonl"  # of training
TRUTH = "truth.jsonl"  # of pseudo labels against withheld labels
RESULTS = "results.json"  # of evaluations
REPORT = "report.html"  # of all these


def append_figures(path: Path, figures: dict[str, float]) -> None:
    """Add a record to a file; what is not finite becomes null. Raises OSError, and leaves the file as it was."""
    line = json.dumps({name: value if math.isfinite(value) else None for name, value in figures.items()})
    append(path, f"{line}\n".encode())


def read_figures(path: Path) -> list[dict[str, float | None]]:
    """The records by their "iteration"; what a continued run did again replaces what was there.

    Broken lines are left out: a killed run may leave half of one.
    """
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            figures = json.loads(line)
            found[int(figures["iteration"])] = figures
        except (ValueError, TypeError, KeyError):
            continue
    return [found[iteration] for iteration in sorted(found)]
