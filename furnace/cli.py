"""The commands of an experiment folder: their arguments, and what they start."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from furnace import base_model, checks, engine, inference
from furnace.inference.options import BRANCHES, FORMATS, OPACITY
from furnace.methods.settings import load_config
from furnace.utils.arguments import Parser, add_overrides, snapshot, user_path
from furnace.utils.config import parse_overrides
from furnace.utils.errors import Stopped, UserError
from furnace.utils.settings import EVALUATION, PLACES, Settings
from furnace.utils.stopping import ignore_saving
from furnace.utils.terminal import Table, open_console, process_number

if TYPE_CHECKING:
    import torch


def train(folder: str | Path, argv: list[str] | None = None) -> int:
    """`python train.py` in an experiment folder; returns 1 if a dry run finds problems."""
    parser = experiment_parser("Train the experiment that config.py beside this file describes.", TRAIN_EXAMPLES)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("-c", "--continue", dest="resume", type=snapshot("-c"), metavar="PATH", help=CONTINUE)
    either.add_argument(
        "--overwrite", action="store_true", help="remove an earlier run in the folder, and start from the beginning"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the recipe, check everything, estimate time and memory, and stop"
    )
    parser.add_argument("--list-encoders", metavar="WORD", help="show the encoders whose names contain WORD, and stop")
    args = parser.parse_args(argv)
    if args.list_encoders is not None:
        open_console().print(base_model.encoder_table(args.list_encoders))
        return 0
    if args.dry_run and engine.launched():
        raise UserError("train.py --dry-run: needs one process only; start it with python instead of torchrun")
    with prepared(folder, args, alone=args.dry_run, trains=True) as (C, device):
        if args.dry_run:
            with base_model.no_downloads():
                trainer = engine.Trainer(C, device, args.resume, overwrite=True)
                processes = len(engine.choose_devices(args.devices))
                return checks.dry_run(trainer, bool(args.resume or args.overwrite), processes)
        engine.Trainer(C, device, args.resume, args.overwrite).fit()
        if engine.rank() == 0:
            needed = [pair for pair in args.override if pair.partition("=")[0].strip() in FOR_EVALUATION]
            given = {"-f": args.file, "-d": args.devices}
            same = [
                *(w for option, value in given.items() if value for w in (option, value)),
                *(w for pair in needed for w in ("-o", pair)),
            ]
            print(f"next: python eval.py {shlex.join(same)}".rstrip())
    return 0


def evaluate(folder: str | Path, argv: list[str] | None = None) -> None:
    """`python eval.py` in an experiment folder."""
    parser = experiment_parser("Evaluate snapshots on the images of C.eval_source.", EVAL_EXAMPLES)
    add_snapshot_arguments(parser, f"FIRST-LAST, FIRST-, {ONE_SNAPSHOT}")
    parser.add_argument("-s", "--save", action="store_true", help="save pictures of every image")
    parser.add_argument(
        "-p",
        "--save-path",
        type=user_path,
        metavar="FOLDER",
        help="folder for the pictures (default: predictions/ in the log folder)",
    )
    parser.add_argument(
        "--submit",
        type=user_path,
        metavar="FOLDER",
        help="write the files for the Cityscapes or VOC server, from C.test_source (no labels needed), and stop",
    )
    args = parser.parse_args(argv)
    with prepared(folder, args) as (C, device):
        if args.submit:
            inference.Submission(C, device, args.branch, args.submit).run(args.epochs)
            return
        save_to = (args.save_path or Path(C.log_dir) / "predictions") if args.save or args.save_path else None
        inference.Evaluator(C, device, args.branch, save_to).run(args.epochs)


def predict(folder: str | Path, argv: list[str] | None = None) -> int:
    """`python predict.py` in an experiment folder; returns 1 if frames of a video are missing or damaged."""
    parser = experiment_parser("Label pictures and videos with a snapshot.", PREDICT_EXAMPLES)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures, folders, glob patterns, videos")
    add_snapshot_arguments(parser, ONE_SNAPSHOT)
    parser.add_argument(
        "-p",
        "--save-path",
        type=user_path,
        metavar="FOLDER",
        help="folder for the results (default: predict/ in the log folder)",
    )
    parser.add_argument("--confidence", action="store_true", help="save maps of the soft-max confidence, too")
    parser.add_argument("--no-overlay", action="store_true", help="save label maps without coloured overlays")
    parser.add_argument("--opacity", type=share, default=OPACITY, help=f"of the overlay, 0 to 1 (default: {OPACITY})")
    args = parser.parse_args(argv)
    if not args.inputs and args.settings is None:
        raise UserError("predict.py: nothing to predict; name a picture, a folder, a pattern or a video")
    with prepared(folder, args) as (C, device):
        save_to = args.save_path or Path(C.log_dir) / "predict"
        outputs = inference.Outputs(save_to, not args.no_overlay, args.confidence, args.opacity)
        predictor = inference.Predictor(C, device, args.branch, outputs)
        predictor.run(args.epochs, args.inputs)
    return predictor.status


def export(folder: str | Path, argv: list[str] | None = None) -> None:
    """`python export.py` in an experiment folder."""
    parser = experiment_parser("Export a snapshot, to run it elsewhere, and compare.", EXPORT_EXAMPLES)
    add_snapshot_arguments(parser, ONE_SNAPSHOT)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="file format (default: onnx)")
    parser.add_argument(
        "--normalize", action="store_true", help="put the normalisation into the file: it takes uint8 RGB pixels"
    )
    parser.add_argument("--labels", action="store_true", help="give label maps instead of scores")
    parser.add_argument(
        "-p", "--save-path", type=user_path, metavar="FILE", help="output file (default: in export/ in the log folder)"
    )
    args = parser.parse_args(argv)
    with prepared(folder, args, alone=True) as (C, _):
        if engine.rank() == 0:  # of a torchrun of the user's own
            form = inference.Form(args.format, args.normalize, args.labels)
            inference.Exporter(C, args.branch, form).run(args.epochs, args.save_path)


# Settings that evaluation takes from its own command; a snapshot knows the others.
FOR_EVALUATION = PLACES | EVALUATION | {"dataset_path", "reduce_zero_label", "num_workers", "eval_batch_size", "amp"}
ONE_SNAPSHOT = "EPOCH, PATH.pth, last (the default), or best, which has the highest score so far"
TRAIN_RESTARTS = 3  # of a run on several devices, when one of its processes is killed
CONTINUE = "continue from this snapshot, or from the newest sound one (auto)"
TRAIN_EXAMPLES = """examples:
  python train.py                                 as config.py says, on the first GPU or the CPU
  python train.py -o labeled_ratio=16 -o lr=0.01  other settings for this run
  python train.py -c auto                         continue from the last save, or start if there is none
  python train.py -c ../log/exp_voc/snapshot/epoch-last.pth
  python train.py --dry-run                       recipe, checks, time and memory, without training
  python train.py --settings                      every setting, its value and its meaning
  python train.py --list-encoders vit_small       names for -o backbone=NAME
"""
EVAL_EXAMPLES = """examples:
  python eval.py                      the last snapshot
  python eval.py -e 20-33 -d 0 -s     epochs 20 to 33 on GPU 0, with pictures
  python eval.py -e last --branch both -o eval_scale_array=0.75,1,1.25 -o eval_flip=true
  python eval.py -e last --submit upload -o test_source=../DATA/city/config_new/test.txt
"""
PREDICT_EXAMPLES = """examples:
  python predict.py photo.jpg                         overlay/ and label/ in the log folder's predict/
  python predict.py photos '../more/*.png' ride.mp4 -e best --confidence -p results
"""
EXPORT_EXAMPLES = """examples:
  python export.py -e last --format onnx --normalize --labels    pixels in, label maps out
  python export.py -e 32 --format pt2 --branch both -p model.pt2
"""
STATUS = """
exit status: 0 done; 1 a fault in the program, problems found by --dry-run, or missing frames of a video; 2 an error
that one line explains; 128 + N ended by signal N, such as 130 by Ctrl-C
"""


def share(text: str) -> float:
    """A number from 0 to 1. Raises ArgumentTypeError otherwise."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text}: must lie between 0 and 1")


def add_snapshot_arguments(parser: argparse.ArgumentParser, which: str) -> None:
    """Which snapshot and which branch of its network."""
    parser.add_argument("-e", "--epochs", type=snapshot("-e"), default="last", help=which)
    parser.add_argument(
        "--branch",
        choices=BRANCHES,
        help="1: conservative network, 2: progressive, both: mean of their probabilities, 3, 4: their moving averages "
        "with C.teacher = ema (default: the method's own)",
    )


def experiment_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every command of an experiment folder has."""
    parser = Parser(description=description, epilog=examples + STATUS)
    parser.add_argument(
        "-d", "--devices", help="0, 0,2, 0-3, * (every GPU), mps or cpu (default: the first GPU, or else the CPU)"
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="another file in place of config.py, with logs of its own")
    add_overrides(parser)
    # From torch.distributed.launch, which sets the environment variable, too.
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--settings", nargs="?", const="", metavar="WORD", help="show every setting, or those with WORD, and stop"
    )
    return parser


@contextmanager
def prepared(
    folder: str | Path, args: argparse.Namespace, alone: bool = False, trains: bool = False
) -> Iterator[tuple[Settings, torch.device]]:
    """The settings and this process's device, all processes having joined; with several devices, start those first.

    `alone`: on the first device only. `trains`: all processes start again when one is killed.
    """
    ignore_saving()
    shows = args.settings is not None
    C = load_config(Path(folder) / (args.file or ""), parse_overrides(args.override), quick=shows)
    if shows:
        open_console().print(settings_table(C, args.settings))
        sys.exit()
    engine.check_launch()
    if not engine.launched() or process_number() == 0:
        for note in C.notes:
            print(f"note: {note}", file=sys.stderr)
    devices = engine.choose_devices(args.devices)[: 1 if alone else None]
    engine.launch(devices, TRAIN_RESTARTS if trains else 0)
    with engine.faults_explained(C, engine.smaller_steps if trains else engine.smaller_windows):
        device = engine.local_device(devices)
        engine.keep_freed_memory(device)
        engine.start(device)
        try:
            yield C, device
        except Stopped:  # as all processes are
            engine.stop()
            raise
        except BaseException:
            engine.abandon()
            raise
        engine.stop()


def choices(kind: Any, description: str) -> str:
    """The values of a setting that takes only some, in brackets; empty if the description has all of them."""
    values = [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []
    return f" ({', '.join(values)})" if any(value not in description for value in values) else ""


def settings_table(C: Settings, word: str = "") -> Table:
    """The settings whose name or meaning has a word, with value and meaning. Raises UserError if none has it."""
    fields = type(C).model_fields.items()
    found = [(name, field) for name, field in fields if word.lower() in f"{name} {field.description}".lower()]
    if not found:
        raise UserError(f"--settings {word}: no setting has this in its name or meaning; --settings shows all")
    table = Table(title=f"settings of {C.this_dir}")
    table.add_column("setting", no_wrap=True)
    for column in ("value", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in found:
        table.add_row(name, str(getattr(C, name)), f"{field.description}{choices(field.annotation, field.description)}")
    return table
