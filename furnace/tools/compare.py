"""Compare methods on one data set, for several labelled ratios and seeds: python -m furnace.tools.compare."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from furnace import compare, engine, seg_opr
from furnace.compare.plan import Results, expected_seconds, plan_table, probes_needed, step_seconds
from furnace.compare.scores import BEST, LAST, Score, aggregate
from furnace.compare.subsets import check_ratios, default_ratios, draw_subsets
from furnace.compare.trials import (
    OF_A_TRIAL,
    Trial,
    ValidationList,
    check_validation,
    parse_method,
    plan_trials,
    split_methods,
)
from furnace.methods.method import METHODS
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides, number, user_path, whole_numbers
from furnace.utils.config import experiment_name, find_config, parse_overrides
from furnace.utils.errors import UserError, run
from furnace.utils.files import existing_part
from furnace.utils.places import CHECKOUT
from furnace.utils.terminal import open_console
from furnace.utils.wording import duration, percent

if TYPE_CHECKING:
    from furnace.compare.runner import Runner
    from furnace.seg_opr.metrics import MetricList

FAILED_STATUS = 1
DEFAULT_PROBE = 6
EXAMPLES = """examples:
  python -m furnace.tools.compare exp_camvid --methods supervised,cps,cpcl --ratios 16,8,4 --seeds 0,1,2
  python -m furnace.tools.compare exp_camvid --methods supervised,cpcl,cpcl:reweight=false --ratios 8 --seeds 0 -d 0-3
  python -m furnace.tools.compare exp_camvid ... --validation DATA/camvid/val.txt     also choose the best epoch on it
  OMP_NUM_THREADS=1 python -m furnace.tools.compare exp_toy -d cpu --jobs 4        four runs at once, one core each
  python -m furnace.tools.compare exp_camvid ... --dry-run                         only show the plan and the time
You can interrupt it at any time: the same command continues, and finished runs are kept.
"""


def main(argv: list[str] | None = None) -> int:
    """Plan, run and report all trials; return the exit status: 1 if a run failed, else 0."""
    args = build_parser().parse_args(argv)
    console = open_console(highlight=False, markup=True)
    experiment = find_config(args.experiment)
    title = experiment_name(experiment)
    trials = make_plan(experiment, args)
    devices = [str(d.index) if d.type == "cuda" else d.type for d in engine.parse_devices(args.devices)] * args.jobs
    # Check each set of lists once, not for every method and seed.
    for trial in {tuple(trial.identity()["lists"].items()): trial for trial in trials}.values():
        check_validation(trial)
    metrics = seg_opr.MetricList(trials[0].C.eval_metrics)
    results: Results = {trial.name: result for trial in trials if (result := trial.result)}
    runner = compare.Runner(experiment, args.keep)
    probed = probe(trials, results, runner, devices[0], args.probe)
    console.print(plan_table(trials, results, step_seconds(trials, results, probed), len(devices), title))
    if args.dry_run:
        return 0
    failures = carry_out(trials, results, runner, devices, console, probed, metrics)
    if results:
        report(trials, results, args, title, console, metrics)
    for failure in failures:
        console.print(failure, soft_wrap=True)
    return FAILED_STATUS if failures else 0


def build_parser() -> ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Train and evaluate methods under equal conditions, for several labelled ratios and seeds,\n"
        "and write tables and a plot of the metrics on the evaluation images.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "experiment",
        help="folder with config.py, train.py and eval.py, such as exp_camvid, or another config file in it",
    )
    parser.add_argument(
        "--methods",
        default="supervised,cpcl",
        help=f"from {', '.join(METHODS.all())}; NAME:key=value:... changes settings (default: supervised,cpcl)",
    )
    parser.add_argument(
        "--ratios",
        type=whole_numbers("--ratios", 1),
        help="one or more values of labeled_ratio (default: 16,8,4, or that of config.py if it has one labelled list)",
    )
    parser.add_argument(
        "--seeds", type=whole_numbers("--seeds", 0), default="0,1,2", help="one or more seeds (default: 0,1,2)"
    )
    parser.add_argument("--draw-subsets", action="store_true", help="draw other labelled images for each seed")
    parser.add_argument(
        "--list", type=user_path, help="with --draw-subsets: list of all training images (default: the data set's)"
    )
    parser.add_argument(
        "--validation",
        type=user_path,
        metavar="LIST",
        help="labelled images for choosing the best epoch, not used in training or testing",
    )
    parser.add_argument("--validation-folder", metavar="NAME", help="their sub-folder (default: name of the list)")
    parser.add_argument("-d", "--devices", help="0, or 0-3 for one run per GPU, or cpu (default: first GPU or cpu)")
    parser.add_argument("--jobs", type=number("--jobs", 1), default=1, metavar="N", help="simultaneous runs per device")
    add_overrides(parser, "for all runs")
    parser.add_argument("--out", type=user_path, help="output folder (default: log/compare/EXPERIMENT)")
    parser.add_argument(
        "--keep",
        choices=("none", "last", "all"),
        default="last",
        help="snapshots to keep from each finished run (default: last)",
    )
    parser.add_argument(
        "--probe",
        type=number("--probe", 0),
        default=DEFAULT_PROBE,
        metavar="N",
        help=f"iterations for measuring the time of a method; 0: do not measure (default: {DEFAULT_PROBE})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the plan and the expected time, then stop; to measure the time, each method trains briefly",
    )
    return parser


def make_plan(experiment: Path, args: Namespace) -> list[Trial]:
    """Plan all trials; with --draw-subsets, draw their labelled subsets first."""
    overrides = parse_overrides(args.override)
    load_config(experiment, overrides)  # it may register methods
    methods = split_methods(args.methods)
    for method in methods:
        parse_method(method)
    out = (args.out or CHECKOUT / "log" / "compare" / experiment_name(experiment)).resolve()
    if not (existing := existing_part(out)).is_dir():
        raise UserError(f"--out {out}: {existing} is a file; name another folder")
    if taken := OF_A_TRIAL & overrides.keys():
        raise UserError(f"-o {min(taken)}=...: differs between runs; use --methods, --ratios, --seeds or --out")
    validation = None
    if args.validation:
        source = args.validation.resolve()
        validation = ValidationList(str(source), args.validation_folder or source.stem)
    subsets = out / "subsets" if args.draw_subsets else None
    ratios = args.ratios or default_ratios(experiment, overrides)
    if subsets:
        draw_subsets(experiment, subsets, ratios, args.seeds, overrides, args.list)
    else:
        check_ratios(experiment, ratios, overrides)
    return plan_trials(experiment, out, methods, ratios, args.seeds, overrides, validation, subsets)


def probe(
    trials: Sequence[Trial], results: Results, runner: Runner, device: str, iterations: int
) -> dict[str, float | None]:
    """Seconds per iteration of the methods without a finished run, measured over `iterations`."""
    if not iterations:
        return {}
    folder = trials[0].folder.parent / "probe"
    return {
        trial.method: runner.probe(trial, device, iterations, folder / trial.folder.name)
        for trial in probes_needed(trials, results)
    }


def carry_out(
    trials: Sequence[Trial],
    results: Results,
    runner: Runner,
    devices: Sequence[str],
    console: Console,
    probed: dict[str, float | None],
    metrics: MetricList,
) -> list[str]:
    """Run the unfinished trials, print each result and add it to `results`; return one message per failure."""
    waiting = [trial for trial in trials if trial.name not in results]
    failures = {}
    for position, (trial, result) in enumerate(runner.run_all(waiting, devices), 1):
        where = f"{position}/{len(waiting)} {escape(trial.name)}"
        if isinstance(result, compare.TrialFailed):
            failures[trial.name] = f"[bold red]failed:[/] {escape(trial.name)}: {escape(str(result))}"
            console.print(f"{where}: [red]failed[/]")
            continue
        results[trial.name] = result
        going = [trial for trial in trials if trial.name not in failures]
        left = expected_seconds(going, results, step_seconds(trials, results, probed), len(devices))
        spent = duration(result["train_seconds"] + result["evaluate_seconds"])
        best = f", best epoch {percent(result['best'][metrics.main])}" if "best" in result else ""
        console.print(
            f"{where}: {metrics.mains[metrics.main]} {percent(result['last'][metrics.main])}{best} in {spent}; "
            f"left: {duration(left)}",
            soft_wrap=True,
        )
    return list(failures.values())


def report(
    trials: Sequence[Trial], results: Results, args: Namespace, title: str, console: Console, metrics: MetricList
) -> None:
    """Write the result files and print the tables."""
    done = [trial for trial in trials if trial.name in results]
    rows = aggregate([to_score(trial, results[trial.name], metrics) for trial in done])
    shown = [results[trial.name] for trial in done]
    times = sorted(result["finished"] for result in shown if "finished" in result)
    facts = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "-m", "furnace.tools.compare", *sys.argv[1:]]),
        "evaluation images": Path(trials[0].C.eval_source).name,
        "labelled images": "drawn for each seed" if args.draw_subsets else "the same for every seed",
        "validation": args.validation.name if args.validation else "none",
        "hardware": ", ".join(sorted({result["device"] for result in results.values()})),
        "commit": ", ".join(sorted({result["commit"] for result in shown if result.get("commit")})) or "-",
        "versions": "; ".join(sorted({", ".join(map(" ".join, result["versions"].items())) for result in shown})),
        "runs": f"{len(done)} of {len(trials)} finished" + (f", from {times[0]} to {times[-1]}" if times else ""),
    }
    out = trials[0].folder.parent
    everything = [
        {"method": t.method, "ratio": t.ratio, "seed": t.seed, "folder": t.folder.name, **t.record()} for t in done
    ]
    compare.tables.write_files(out, title, rows, facts, everything, metrics.mains)
    console.print(compare.tables.tables(rows, metrics.mains), soft_wrap=True, markup=False)
    console.print(f"written: {out / compare.tables.MARKDOWN}, .csv, .json, .png and .html", soft_wrap=True)
    console.print(f"open in a browser: {out / compare.tables.PAGE}", soft_wrap=True)


def to_score(trial: Trial, result: dict[str, Any], metrics: MetricList) -> Score:
    """Scores and costs of a finished run."""
    return Score(
        method=trial.method,
        ratio=trial.ratio,
        seed=trial.seed,
        labeled=result["labeled"],
        values={
            which: {name: result[which][name] for name in metrics.mains} for which in (LAST, BEST) if which in result
        },
        seconds=result["train_seconds"] + result["evaluate_seconds"],
        memory_gib=result["peak_memory_gib"],
    )


if __name__ == "__main__":
    run(main)
