"""Plan a comparison: estimate the time of its runs from finished runs, or else from a few iterations per method."""

import statistics
from collections.abc import Sequence
from typing import Any

from furnace.compare.trials import Trial
from furnace.utils.terminal import Table
from furnace.utils.wording import duration

Results = dict[str, dict[str, Any]]  # of finished trials, by name


def probes_needed(trials: Sequence[Trial], results: Results) -> list[Trial]:
    """The first trial of each method without a finished trial."""
    known = {trial.method for trial in trials if trial.name in results}
    return list({trial.method: trial for trial in reversed(trials) if trial.method not in known}.values())


def step_seconds(trials: Sequence[Trial], results: Results, probed: dict[str, float | None]) -> dict[str, float | None]:
    """Seconds per iteration by method: median of the finished runs, else the `probed` value, else None."""
    steps: dict[str, float | None] = {}
    for method in {trial.method for trial in trials}:
        finished = [results[trial.name] for trial in trials if trial.method == method and trial.name in results]
        found = [result["step_seconds"] for result in finished if result["step_seconds"] is not None]
        steps[method] = statistics.median(found) if found else probed.get(method)
    return steps


def overhead_seconds(results: Results) -> float:
    """Seconds per run besides its iterations (start, evaluation): mean of the finished runs, 0 without any."""
    rest = [
        max(0, result["train_seconds"] + result["evaluate_seconds"] - result["iterations"] * result["step_seconds"])
        for result in results.values()
        if result["step_seconds"] is not None  # a full disk can leave a run without metrics
    ]
    return statistics.fmean(rest) if rest else 0


def expected_seconds(
    trials: Sequence[Trial], results: Results, steps: dict[str, float | None], at_once: int = 1
) -> float | None:
    """Seconds until all trials are finished, `at_once` in parallel; None if a method's time is unknown."""
    waiting = [trial for trial in trials if trial.name not in results]
    if any(steps[trial.method] is None for trial in waiting):
        return None
    overhead = overhead_seconds(results)
    total = sum(trial.iterations * steps[trial.method] + overhead for trial in waiting)
    return total / max(1, min(at_once, len(waiting)))


def plan_table(
    trials: Sequence[Trial], results: Results, steps: dict[str, float | None], at_once: int, title: str
) -> Table:
    """Table of the plan, one row per method and share of labels."""
    table = Table(title=f"{title}: {len(trials)} runs", title_justify="left")
    for column in ("method", "labels", "seeds", "iterations", "finished", "expected time"):
        table.add_column(column, justify="left" if column == "method" else "right")
    groups: dict[tuple[int, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.ratio, trial.method), []).append(trial)
    for (ratio, method), group in groups.items():
        finished = sum(trial.name in results for trial in group)
        table.add_row(
            method,
            f"{group[0].labeled} (1/{ratio})",
            ", ".join(str(trial.seed) for trial in group),
            str(group[0].iterations),
            f"{finished} of {len(group)}",
            "-" if finished == len(group) else duration(expected_seconds(group, results, steps)),
        )
    note = "" if results else ", start and evaluation not included"
    in_all = expected_seconds(trials, results, steps, at_once)
    known = "unknown before a run of each method" if in_all is None else f"about {duration(in_all)}"
    table.caption = f"total time: {known}, {at_once} at a time{note}"
    return table
