"""Compare methods on one data set, for several labelled ratios and seeds: python -m furnace.tools.compare."""

from __future__ import annotations

import os
import shlex
import subprocess
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
from furnace.compare.trials import (
    OF_A_TRIAL,
    Trial,
    ValidationList,
    check_validation,
    parse_method,
    plan_trials,
    split_methods,
    subset_sources,
)
from furnace.datasets.splits import list_hash
from furnace.methods.method import METHODS
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides, number, whole_numbers
from furnace.utils.config import experiment_name, find_config, parse_overrides
from furnace.utils.errors import UserError, run
from furnace.utils.files import existing_part, write_atomically
from furnace.utils.places import CHECKOUT
from furnace.utils.terminal import open_console
from furnace.utils.wording import duration, percent

if TYPE_CHECKING:
    from furnace.compare.runner import Runner
    from furnace.seg_opr.metrics import MetricList

FAILED_STATUS = 1
ORIGIN = "drawn_from.txt"  # stored with drawn subsets: identifies the list they were drawn from
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
        default="16,8,4",
        help="one or more values of labeled_ratio (default: 16,8,4)",
    )
    parser.add_argument(
        "--seeds", type=whole_numbers("--seeds", 0), default="0,1,2", help="one or more seeds (default: 0,1,2)"
    )
    parser.add_argument("--draw-subsets", action="store_true", help="draw other labelled images for each seed")
    parser.add_argument("--list", help="with --draw-subsets: list of all training images (default: the data set's)")
    parser.add_argument(
        "--validation",
        metavar="LIST",
        help="labelled images for choosing the best epoch, not used in training or testing",
    )
    parser.add_argument("--validation-folder", metavar="NAME", help="their sub-folder (default: name of the list)")
    parser.add_argument("-d", "--devices", help="0, or 0-3 for one run per GPU, or cpu (default: first GPU or cpu)")
    parser.add_argument("--jobs", type=number("--jobs", 1), default=1, metavar="N", help="simultaneous runs per device")
    add_overrides(parser, "for all runs")
    parser.add_argument("--out", type=Path, help="output folder (default: log/compare/EXPERIMENT)")
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
        source = Path(args.validation).resolve()
        validation = ValidationList(str(source), args.validation_folder or source.stem)
    subsets = None
    if args.draw_subsets:
        subsets = out / "subsets"
        for seed in args.seeds:
            draw_subsets(experiment, subsets, args.ratios, seed, overrides, args)
    else:
        check_ratios(experiment, args.ratios, overrides)
    return plan_trials(experiment, out, methods, args.ratios, args.seeds, overrides, validation, subsets)


def check_ratios(experiment: Path, ratios: Sequence[int], overrides: dict[str, str]) -> None:
    """Raise UserError if config.py names the same labelled list for its own ratio and another."""
    own = load_config(experiment, overrides)
    for ratio in ratios:
        C = load_config(experiment, {**overrides, "labeled_ratio": str(ratio)})
        if ratio != own.labeled_ratio and C.train_source == own.train_source:
            raise UserError(
                f"--ratios {ratio}: C.train_source = {C.train_source} for every C.labeled_ratio; use "
                f"--ratios {own.labeled_ratio}, or name one list per ratio in config.py, as in exp_voc"
            )


def draw_subsets(
    experiment: Path, subsets: Path, ratios: Sequence[int], seed: int, overrides: dict[str, str], args: Namespace
) -> None:
    """Write the missing lists of a seed with make_splits; smaller lists are subsets of larger ones.

    If the existing lists were drawn from another list, all are written again.
    """
    origin, folder, missing = drawn_from(args.list), subsets / f"seed-{seed}", []
    same = (folder / ORIGIN).is_file() and (folder / ORIGIN).read_text(encoding="utf-8") == origin
    for ratio in ratios:
        C = load_config(experiment, {**overrides, "labeled_ratio": str(ratio)})
        if not C.train_source.endswith(f"_labeled_1-{ratio}.txt"):
            raise UserError(
                f"--draw-subsets: C.train_source = {C.train_source}: is not named ..._labeled_1-{ratio}.txt, like the "
                "drawn lists; use this name in config.py, with C.labeled_ratio, or omit --draw-subsets"
            )
        sources = subset_sources(C, subsets, seed)
        if not (same and all(Path(source).is_file() for source in sources.values())):
            missing.append(str(ratio))
    if not missing:
        return
    words = [sys.executable, "-m", "furnace.tools.make_splits", str(experiment), "--ratios", ",".join(missing)]
    words += ["--seed", str(seed), "--out", str(folder), "--overwrite"]
    words += ["--list", str(Path(args.list).resolve())] if args.list else []
    words += [part for name, value in overrides.items() for part in ("-o", f"{name}={value}")]
    # In the working directory, like the runs, so that relative paths mean the same.
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--draw-subsets: {done.stderr.strip().removeprefix('error: ')}")
    write_atomically(folder / ORIGIN, origin.encode())


def drawn_from(listing: str | None) -> str:
    """Identifier of the list to draw from: a digest of its content; "the data set's own" if `listing` is None."""
    if listing is None:
        return "the data set's own"
    if not Path(listing).is_file():
        raise UserError(f"--list {listing}: no such file")
    return list_hash(listing)


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
        "validation": Path(args.validation).name if args.validation else "none",
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
