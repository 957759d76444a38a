"""Expected time of a comparison, against numbers calculated by hand."""

from types import SimpleNamespace

import pytest

from furnace.compare.plan import expected_seconds, overhead_seconds, plan_table, probes_needed, step_seconds


def trial(method: str, seed: int = 0, ratio: int = 8, iterations: int = 10) -> SimpleNamespace:
    name = f"{method} 1/{ratio} seed {seed}"
    return SimpleNamespace(
        method=method, seed=seed, ratio=ratio, name=name, iterations=iterations, labeled=360 // ratio
    )


def result(step: float | None, train: float = 25.0, evaluate: float = 5.0) -> dict:
    return {"step_seconds": step, "train_seconds": train, "evaluate_seconds": evaluate, "iterations": 10}


TRIALS = [trial(method, seed) for seed in (0, 1, 2) for method in ("cps", "cpcl")]


def test_one_run_is_probed_for_each_method_without_a_finished_run() -> None:
    assert [t.name for t in probes_needed(TRIALS, {})] == ["cpcl 1/8 seed 0", "cps 1/8 seed 0"]
    assert [t.name for t in probes_needed(TRIALS, {"cpcl 1/8 seed 2": result(1)})] == ["cps 1/8 seed 0"]
    assert probes_needed(TRIALS, {"cpcl 1/8 seed 2": result(1), "cps 1/8 seed 1": result(1)}) == []


def test_finished_runs_take_precedence_over_probes() -> None:
    finished = {TRIALS[0].name: result(1), TRIALS[2].name: result(9), TRIALS[4].name: result(2)}
    assert step_seconds(TRIALS, finished, {"cps": 7.0, "cpcl": 3.0}) == {"cps": 2, "cpcl": 3}
    assert step_seconds(TRIALS, {TRIALS[0].name: result(None)}, {"cps": 7.0}) == {"cps": 7, "cpcl": None}


def test_overhead_is_the_mean_over_finished_runs() -> None:
    assert overhead_seconds({"a": result(1), "b": result(2, 20, 6), "c": result(None), "d": result(99)}) == 26 / 3
    assert overhead_seconds({}) == 0


def test_the_time_left_is_that_of_the_waiting_runs() -> None:
    steps = {"cps": 2.0, "cpcl": 3.0}
    assert expected_seconds(TRIALS, {}, steps) == 3 * 20 + 3 * 30
    finished = {TRIALS[0].name: result(2)}  # 20 s of iterations and 10 s of overhead
    assert expected_seconds(TRIALS, finished, steps) == 2 * 20 + 3 * 30 + 5 * 10
    assert expected_seconds(TRIALS, finished, steps, at_once=2) == 90
    assert expected_seconds(TRIALS[:1], finished, steps, at_once=2) == 0
    assert expected_seconds(TRIALS, finished, {"cps": 2.0, "cpcl": None}) is None
    assert expected_seconds(TRIALS[:3:2], finished, {"cps": 2.0, "cpcl": None}) == 30


def cells(table) -> list[list[str]]:
    return [list(map(str, column.cells)) for column in table.columns]


def test_the_plan_has_a_line_for_each_method_and_share_of_labels() -> None:
    trials = [*TRIALS, trial("cps", ratio=4, iterations=20)]
    finished = {t.name: result(2) for t in (TRIALS[0], *TRIALS[1::2])}
    table = plan_table(trials, finished, {"cps": 60.0, "cpcl": 1.0}, 2, "exp_toy")
    assert str(table.title) == "exp_toy: 7 runs"
    assert [column.header for column in table.columns] == [
        *("method", "labels", "seeds", "iterations", "finished", "expected time")
    ]
    assert [column.justify for column in table.columns] == ["left"] + ["right"] * 5
    assert cells(table)[:5] == [
        ["cps", "cpcl", "cps"],
        ["45 (1/8)", "45 (1/8)", "90 (1/4)"],
        ["0, 1, 2", "0, 1, 2", "0"],
        ["10", "10", "20"],
        ["1 of 3", "3 of 3", "0 of 1"],
    ]
    # Two runs of 10 iterations and one of 20 at one minute per iteration, and 10 s of overhead per run.
    assert cells(table)[5] == ["20 min", "-", "20 min"]
    assert str(table.caption) == "total time: about 20 min, 2 at a time"


@pytest.mark.parametrize(
    ("step", "caption"),
    [
        (6.0, "total time: about 6 min, 1 at a time, start and evaluation not included"),
        (None, "total time: unknown before a run of each method, 1 at a time, start and evaluation not included"),
    ],
)
def test_the_plan_says_what_is_not_known_yet(step: float | None, caption: str) -> None:
    assert str(plan_table(TRIALS, {}, {"cps": step, "cpcl": 6.0}, 1, "t").caption) == caption
