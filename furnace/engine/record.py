"""The files of a run with its settings, versions and metrics."""

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

from furnace.engine.distributed import world_size
from furnace.engine.numerics import device_name
from furnace.utils.files import append, write_atomically
from furnace.utils.places import CHECKOUT
from furnace.utils.settings import Settings

TRAINING_METRICS = "figures.jsonl"  # metrics of training, one JSON object per line
TRUTH = "truth.jsonl"  # pseudo labels compared with withheld labels, one JSON object per line
RESULTS = "results.json"  # scores of evaluations
REPORT = "report.html"  # report on all of these
RECORD = "run.json"
GIT_SECONDS = 10  # time limit: the commit is not worth a longer wait on a slow disk


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
