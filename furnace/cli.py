"""The commands of an experiment folder: their arguments, and what they start."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from furnace.engine.distributed import launch, local_device, parse_devices, start, stop
from furnace.engine.evaluator import BRANCHES, Evaluator
from furnace.engine.trainer import Trainer
from furnace.utils.config import Settings, load_config, parse_overrides


def train(folder: str | Path, argv: list[str] | None = None) -> None:
    """`python train.py` in an experiment folder."""
    parser = experiment_parser("Train the experiment that config.py beside this file describes.", TRAIN_EXAMPLES)
    parser.add_argument("-c", "--continue", dest="resume", metavar="PATH", help=CONTINUE)
    parser.add_argument("--overwrite", action="store_true", help="start anew where there are snapshots already")
    args = parser.parse_args(argv)
    with prepared(folder, args) as (C, device):
        Trainer(C, device, args.resume, args.overwrite).fit()


def evaluate(folder: str | Path, argv: list[str] | None = None) -> None:
    """`python eval.py` in an experiment folder."""
    parser = experiment_parser("Evaluate snapshots on the validation images.", EVAL_EXAMPLES)
    parser.add_argument(
        "-e", "--epochs", default="last", help="PATH.pth, EPOCH, FIRST-LAST, FIRST- or last (the default)"
    )
    parser.add_argument(
        "--branch",
        choices=BRANCHES,
        default="1",
        help="1: conservative network (the default), 2: progressive, both: mean of their probabilities",
    )
    parser.add_argument("-s", "--save", action="store_true", help="save pictures of every image")
    parser.add_argument(
        "-p", "--save-path", metavar="FOLDER", help="where to (default: predictions/ in the log folder)"
    )
    args = parser.parse_args(argv)
    with prepared(folder, args) as (C, device):
        save_to = (args.save_path or Path(C.log_dir) / "predictions") if args.save or args.save_path else None
        Evaluator(C, device, args.branch, save_to).run(args.epochs)


CONTINUE = "continue from this snapshot, or from the newest sound one (auto)"
TRAIN_EXAMPLES = """examples:
  python train.py                                 what config.py says, on what is there
  python train.py -o labeled_ratio=16 -o lr=0.01  other settings for this run
  python train.py -c auto                         go on from the last save, or begin if there is none
  python train.py -c ../log/exp_voc/snapshot/epoch-last.pth
  python train.py --settings                      every setting, its value and its meaning
"""
EVAL_EXAMPLES = """examples:
  python eval.py                      the last snapshot
  python eval.py -e 20-34 -d 0 -s     epochs 20 to 34 on GPU 0, with pictures
  python eval.py -e last --branch both -o eval_scale_array=0.75,1,1.25 -o eval_flip=true
"""


def experiment_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every command of an experiment folder has."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-d", "--devices", help="0, or 0,2, or 0-3, or * (every GPU), or cpu; default: what is there")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="another setting for this run"
    )
    parser.add_argument("--settings", action="store_true", help="print every setting, its value and meaning, and stop")
    return parser


@contextmanager
def prepared(folder: str | Path, args: argparse.Namespace) -> Iterator[tuple[Settings, torch.device]]:
    """The settings and this process's device, all processes having joined; with several devices, start those first."""
    C = load_config(folder, parse_overrides(args.override))
    if args.settings:
        Console().print(settings_table(C))
        sys.exit()
    devices = parse_devices(args.devices)
    launch(devices)
    device = local_device(devices)
    start(device)
    try:
        yield C, device
    finally:
        stop()


def settings_table(C: Settings) -> Table:
    """Every setting with its value and meaning."""
    table = Table("setting", "value", "meaning", title=f"settings of {C.this_dir}")
    for name, field in Settings.model_fields.items():
        table.add_row(name, escape(str(getattr(C, name))), escape(field.description))
    return table
