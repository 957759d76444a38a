"""The start-up table of a run, and the files with its settings, versions and metrics."""

import json
import math
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainSet
from furnace.engine.compilation import OFF, chosen_compile, describe_compilation
from furnace.engine.distributed import world_size
from furnace.engine.identity import learned_lists
from furnace.engine.numerics import choose_amp, device_name
from furnace.utils.files import append, write_atomically
from furnace.utils.places import CHECKOUT
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table
from furnace.utils.wording import LISTS

TRAINING_METRICS = "figures.jsonl"  # metrics of training, one JSON object per line
TRUTH = "truth.jsonl"  # pseudo labels compared with withheld labels, one JSON object per line
RESULTS = "results.json"  # scores of evaluations
REPORT = "report.html"  # report on all of these
RECORD = "run.json"
GIT_SECONDS = 10  # time limit: the commit is not worth a longer wait on a slow disk
PRECISIONS = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast, scaled loss", "off": "float32"}


def append_metrics(path: Path, metrics: dict[str, float], run: str) -> None:
    """Append a record of a run to a file; values that are not finite become null.

    Raises:
        OSError: the record can't be written; the file is unchanged.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    line = json.dumps(finite | {"run": run})
    append(path, f"{line}\n".encode())


def read_metrics(path: Path, run: str | None = None) -> list[dict[str, float | None]]:
    """The records of a run, sorted by "iteration"; later records of the same iteration replace earlier ones.

    Records without a run, from older versions, are included; without `run` all records are.

    Broken lines are ignored: a killed run may leave half a line.
    """
    found = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            metrics = json.loads(line)
            if metrics.pop("run", run) == run or run is None:
                found[int(metrics["iteration"])] = metrics
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return [found[iteration] for iteration in sorted(found)]


def write_record(C: Settings, identity: dict[str, Any], device: torch.device, continues: bool) -> Path:
    """Write settings, lists and versions of a run beside its snapshots; return the path.

    A run that `continues` adds an entry with its changed settings to `continuations`; the record of the first start
    stays.
    """
    path = Path(C.snapshot_dir) / RECORD
    record = begun(C, identity, device)
    first = read_record(path) if continues else {}
    if first:
        before = dict(first["settings"])
        for continuation in first.get("continuations", []):
            before |= continuation["settings"]
        now = json.loads(json.dumps(record["settings"]))
        record["settings"] = {name: value for name, value in now.items() if value != before.get(name)}
        record = {**first, "run": identity["run"], "continuations": [*first.get("continuations", []), record]}
    write_atomically(path, json.dumps(record, indent=2).encode())
    return path


def read_record(path: Path) -> dict[str, Any]:
    """The record of a run; empty if the file is missing or is not a record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("settings"), dict) else {}


def begun(C: Settings, identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The part of the record that describes one start: run, settings, lists, device and versions."""
    return {
        "run": identity["run"],
        "started": datetime.now().isoformat(timespec="seconds"),
        "command": sys.argv,
        "settings": C.model_dump(),
        "lists": identity["data"],
        **({"warm_start": identity["warm_start"]} if "warm_start" in identity else {}),
        "device": device_name(device),
        "precision": identity["precision"],
        "processes": world_size(),
        "commit": commit(),
        "versions": identity["versions"],
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect the results."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def commit(checkout: Path = CHECKOUT) -> str | None:
    """The commit of the code, with "-dirty" if files differ from it; None outside a checkout or without git."""
    if not (checkout / ".git").exists():
        return None
    words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def recipe_table(C: Settings, dataset: TrainSet, network: Network, device: torch.device, start_iteration: int) -> Table:
    """The start-up table of a run."""
    table = Table(title=f"{C.this_dir}: {C.method} on {C.dataset_name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, (path, samples) in learned_lists(C, dataset).items():
        table.add_row(LISTS[name], f"{len(samples)} images, {path}")
    total = C.nepochs * C.niters_per_epoch
    table.add_row("epochs", f"{C.nepochs} of {C.niters_per_epoch} iterations, {total} in total")
    if start_iteration:
        table.add_row("continues", f"at iteration {start_iteration}, epoch {start_iteration // C.niters_per_epoch}")
    streams = 0 if dataset.unlabeled is None else 2 if dataset.masks else 1
    unlabeled = f" + {streams} x {C.batch_size} unlabelled" if streams else ""
    table.add_row("batch", f"{C.batch_size} labelled{unlabeled}")
    for line in describe_division(C, device, world_size()):
        table.add_row("", line)
    table.add_row(
        "crop", f"{C.image_height} x {C.image_width}, scales {', '.join(f'{s:g}' for s in C.train_scale_array)}"
    )
    encoder = f", encoder x {C.lr_backbone:g}" if C.lr_backbone != 1 else ""
    momentum = f", momentum {C.momentum:g}" if C.optimizer == "sgd" else ""
    rate = f"{C.lr:g}{encoder}, poly {C.lr_power:g}{momentum}, decay {C.weight_decay:g}"
    table.add_row("optimizer", f"{C.optimizer}, learning rate {rate}")
    loss = f"OHEM {C.ohem_thresh:g}, {C.ohem_min_kept} pixels per image" if C.ohem else "mean cross entropy"
    table.add_row("losses", loss + (f"; unsupervised x {C.unsup_weight:g}" if streams else ""))
    parameters = sum(p.numel() for p in network.parameters())
    table.add_row(
        "network", f"{len(network.branches)} x {C.decoder}, {C.backbone}, {parameters / 1e6:.1f} M parameters"
    )
    table.add_row("", network.weights_report)
    processes = world_size()
    table.add_row("device", f"{device_name(device)}" + (f", {processes} processes" if processes > 1 else ""))
    amp, reason = choose_amp(C.amp, device, network)
    recomputed = ", encoder's blocks recomputed" if C.checkpoint else ""
    table.add_row("precision", PRECISIONS[amp] + (f" ({reason})" if reason else "") + recomputed)
    if (chosen := chosen_compile(C, device)) != OFF:
        table.add_row("compiled", describe_compilation(chosen))
    table.add_row("seed", str(C.seed))
    table.add_row("snapshots", C.snapshot_dir)
    return table


def describe_division(C: Settings, device: torch.device, processes: int) -> list[str]:
    """Lines about a batch that is split among devices or into parts; empty if it is not split."""
    if processes == C.accumulate == 1:
        return []
    together = C.sync_bn and device.type == "cuda"
    images = C.batch_size // processes // C.accumulate
    parts = f", in {C.accumulate} parts of {images}" if C.accumulate > 1 else ""
    lines = [f"{C.batch_size // processes} images per device{parts}"]
    seen = images * (processes if together else 1)
    apart = "; running statistics are averaged over processes" if processes > 1 and not together else ""
    lines.append(f"BatchNorm sees {seen} of {C.batch_size} images at a time{apart}")
    if C.accumulate > 1:
        lines.append(f"agreement, OHEM and normalisers use {images * processes} images")
    return lines
