"""Statistics of a comparison: mean and standard deviation over seeds, and paired difference to a baseline."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BASELINE = "supervised"
LAST, BEST = "last", "best"
TITLES = {LAST: "Last epoch", BEST: "Best epoch, chosen on the validation list"}
LEVEL = 0.95  # of the confidence interval


@dataclass(frozen=True)
class Score:
    """One finished run.

    `values` are in [0, 1] on the evaluation images, by "last" or "best" epoch (on the validation list), then by name.
    """

    method: str
    ratio: int
    seed: int
    labeled: int
    values: Mapping[str, Mapping[str, float | None]]
    seconds: float
    memory_gib: float | None


@dataclass(frozen=True)
class Row:
    """Statistics of a metric for a method at one share of labels, over its seeds; None with too few seeds.

    `std` is the sample standard deviation. `difference` is the mean, over the common seeds, of the method's value minus
    the baseline's; `standard_error` and `interval` are its standard error and the half width of its 95 % confidence
    interval (Student's t). `seconds` is the mean time of training and evaluation per run, `memory_gib` the largest
    peak.
    """

    which: str
    metric: str
    method: str
    ratio: int
    labeled: int
    seeds: tuple[int, ...]
    mean: float
    std: float | None
    difference: float | None
    standard_error: float | None
    interval: float | None
    seconds: float
    memory_gib: float | None


def aggregate(scores: Sequence[Score]) -> list[Row]:
    """Rows by epoch (last, then best if one was chosen), metric, labels (fewest first), and method (as given)."""
    names = dict.fromkeys(name for score in scores for values in score.values.values() for name in values)
    return [row for which in (LAST, BEST) for name in names for row in rows_of(scores, which, name)]


def rows_of(scores: Sequence[Score], which: str, name: str) -> list[Row]:
    """The rows of one metric at the "last" or the "best" epoch."""
    groups: dict[tuple[int, str], dict[int, Score]] = {}
    for score in scores:
        if score.values.get(which, {}).get(name) is not None:
            groups.setdefault((score.ratio, score.method), {})[score.seed] = score
    rows = []
    for ratio in sorted({ratio for ratio, _ in groups}, reverse=True):
        base = {seed: score.values[which][name] for seed, score in groups.get((ratio, BASELINE), {}).items()}
        for (of_ratio, method), by_seed in groups.items():
            if of_ratio == ratio:
                rows.append(make_row(which, name, by_seed, {} if method == BASELINE else base))
    return rows


def make_row(which: str, name: str, by_seed: Mapping[int, Score], base: Mapping[int, float]) -> Row:
    """The row of one method and share of labels, from its scores and the baseline's values by seed."""
    values = {seed: score.values[which][name] for seed, score in sorted(by_seed.items())}
    difference, standard_error, interval = paired_difference(values, base)
    first = next(iter(by_seed.values()))
    memory = [score.memory_gib for score in by_seed.values() if score.memory_gib is not None]
    return Row(
        which=which,
        metric=name,
        method=first.method,
        ratio=first.ratio,
        labeled=first.labeled,
        seeds=tuple(values),
        mean=statistics.fmean(values.values()),
        std=statistics.stdev(values.values()) if len(values) > 1 else None,
        difference=difference,
        standard_error=standard_error,
        interval=interval,
        seconds=statistics.fmean(score.seconds for score in by_seed.values()),
        memory_gib=max(memory, default=None),
    )


def paired_difference(
    values: Mapping[int, float], base: Mapping[int, float]
) -> tuple[float | None, float | None, float | None]:
    """Mean of values minus base over the common seeds, its standard error, and half width of its 95 % interval.

    None with too few seeds: the mean needs one, the others need two.
    """
    differences = [values[seed] - base[seed] for seed in values if seed in base]
    if len(differences) < 2:
        return differences[0] if differences else None, None, None
    from scipy import stats

    error = float(stats.sem(differences))
    return statistics.fmean(differences), error, error * float(stats.t.ppf(0.5 + LEVEL / 2, len(differences) - 1))
