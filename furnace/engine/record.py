"""The files in which a run's settings, metrics and results stand, beside its snapshots and logs."""

import json
import math
import platform
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision

from furnace.datasets.dataset import TrainSet
from furnace.datasets.splits import list_hash
from furnace.engine.distributed import world_size
from furnace.engine.numerics import device_name
from furnace.engine.snapshot_folder import list_snapshots
from furnace.utils.files import append, write_atomically
from furnace.utils.settings import Settings

TRAINING_METRICS = "figures.jsonl"  # of training, one JSON object per line
TRUTH = "truth.jsonl"  # of pseudo labels against withheld labels, likewise
RESULTS = "results.json"  # of evaluations
REPORT = "report.html"  # of all these
RECORD = "run.json"


def append_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Add a record to a file; what is not finite becomes null. Raises OSError, and leaves the file as it was."""
    line = json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()})
    append(path, f"{line}\n".encode())


def read_metrics(path: Path) -> list[dict[str, float | None]]:
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
            metrics = json.loads(line)
            found[int(metrics["iteration"])] = metrics
        except (ValueError, TypeError, KeyError):
            continue
    return [found[iteration] for iteration in sorted(found)]


def describe_lists(C: Settings, dataset: TrainSet) -> dict[str, dict[str, Any]]:
    """Path, number of images and hash of the lists that a run learns from; a folder has no hash."""
    lists = {"labelled": (C.train_source, dataset.labeled)}
    if dataset.unlabeled is not None:
        lists["unlabelled"] = (C.unsup_source, dataset.unlabeled)
    return {
        name: {"path": path, "images": len(samples), "sha256": list_hash(path) if Path(path).is_file() else None}
        for name, (path, samples) in lists.items()
    }


def write_record(C: Settings, dataset: TrainSet, device: torch.device) -> Path:
    """Write what the run used, settings, lists and versions, beside its snapshots.

    A run that goes on, which is one that has saves there, adds itself to `continuations` with the settings that are
    others now; what the record says of the beginning stays.
    """
    path = Path(C.snapshot_dir) / RECORD
    record = begun(C, dataset, device)
    first = read_record(path) if list_snapshots(path.parent) else {}
    if first:
        before = dict(first["settings"])
        for continuation in first.get("continuations", []):
            before |= continuation["settings"]
        now = json.loads(json.dumps(record["settings"]))
        record["settings"] = {name: value for name, value in now.items() if value != before.get(name)}
        record = {**first, "continuations": [*first.get("continuations", []), record]}
    write_atomically(path, json.dumps(record, indent=2).encode())
    return path


def read_record(path: Path) -> dict[str, Any]:
    """What a run noted beside its snapshots; nothing for snapshots from elsewhere."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("settings"), dict) else {}


def begun(C: Settings, dataset: TrainSet, device: torch.device) -> dict[str, Any]:
    """What a process that trains uses."""
    return {
        "started": datetime.now().isoformat(timespec="seconds"),
        "command": sys.argv,
        "settings": C.model_dump(),
        "lists": describe_lists(C, dataset),
        "device": device_name(device),
        "processes": world_size(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
