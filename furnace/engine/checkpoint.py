"""Snapshots: written whole or not at all, checked when loaded, and found by epoch."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from furnace.utils.errors import UserError
from furnace.utils.weights import load_file

LAST = "epoch-last.pth"


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot holds: the network's and the optimizers' states, the last epoch that was finished, the number of
    iterations done, and the settings of the run (empty in files of the published code)."""

    model: dict[str, Tensor]
    optimizers: list[dict]
    epoch: int
    iteration: int | None
    settings: dict[str, Any]


def is_snapshot_epoch(epoch: int, nepochs: int, snapshot_iter: int) -> bool:
    """Whether a snapshot is due after `epoch` (from 0): every `snapshot_iter` past the first sixth, and at the end."""
    return epoch == nepochs - 1 or (epoch > nepochs // 6 and epoch % snapshot_iter == 0)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to the disk and rename it: `path` is old or new, never half.

    Raises:
        UserError: the disk is full or the folder can't be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        size = temporary.stat().st_size if temporary.exists() else 0
        free = shutil.disk_usage(path.parent).free
        raise UserError(
            f"{path}: can't be written ({error}); {size / 2**20:.0f} MiB were written when it failed and "
            f"{free / 2**20:.0f} MiB are free: make room, or choose another folder (-o snapshot_dir=...)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot with the keys of the published code and, beside them, the settings."""
    optimizers = {f"optimizer_{i}": state for i, state in enumerate(snapshot.optimizers, 1)}
    content = {
        "model": snapshot.model,
        **optimizers,
        "epoch": snapshot.epoch,
        "iteration": snapshot.iteration,
        "settings": snapshot.settings,
    }
    write_whole(path, lambda temporary: torch.save(content, temporary))


def copy_as_last(path: Path) -> None:
    """Make `epoch-last.pth` the same file as `path`; a hard link where the disk knows them."""

    def link_or_copy(temporary: Path) -> None:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)

    write_whole(path.with_name(LAST), link_or_copy)


def load_snapshot(path: str | Path) -> Snapshot:
    """Read a snapshot of ours or of the published code, or bare weights (epoch -1).

    Raises:
        UserError: the file is missing, damaged, no snapshot, or would run code.
    """
    content = load_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: no snapshot (expected a dict with the key 'model')")
    bare = all(isinstance(value, Tensor) for value in content.values())
    model = content if bare else content.get("model")
    if not model or not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
        raise UserError(f"{path}: no snapshot (expected weights under the key 'model'; keys are {list(content)[:6]})")
    epoch, iteration, settings = content.get("epoch", -1), content.get("iteration"), content.get("settings", {})
    optimizers = [content[key] for key in ("optimizer_1", "optimizer_2") if not bare and key in content]
    if bare or not (
        isinstance(epoch, int) and isinstance(settings, dict) and all(isinstance(o, dict) for o in optimizers)
    ):
        epoch, iteration, settings, optimizers = -1, None, {}, []
    if not settings:
        iteration = None  # the published code counts iterations from the epoch's begin
    return Snapshot(
        {str(k).removeprefix("module."): v for k, v in model.items()}, optimizers, epoch, iteration, settings
    )


def load_network(network: nn.Module, snapshot: Snapshot, path: str | Path) -> None:
    """Fill `network` from a snapshot; names and shapes must all match.

    Raises:
        UserError: naming the first difference, and the settings that differ if the snapshot tells them.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in snapshot.model]
    extra = [name for name in snapshot.model if name not in own]
    shapes = [name for name in own if name in snapshot.model and own[name].shape != snapshot.model[name].shape]
    if not (missing or extra or shapes):
        network.load_state_dict(snapshot.model)
        return
    if shapes:
        name = shapes[0]
        what = f"{name} has shape {tuple(snapshot.model[name].shape)}, the network's has {tuple(own[name].shape)}"
    else:
        what = f"{len(missing)} tensors are missing and {len(extra)} are unknown, such as {(missing + extra)[0]}"
    hint = ", ".join(
        f"C.{key} = {snapshot.settings[key]!r}"
        for key in ("num_classes", "backbone", "head_channels", "pretrained_model")
        if key in snapshot.settings
    )
    raise UserError(f"{path}: {what}; it was made with {hint or 'other settings: check C.num_classes and C.backbone'}")


def list_epochs(folder: str | Path) -> dict[int, Path]:
    """The snapshots `epoch-N.pth` of a folder by epoch, in order."""
    found = {}
    for path in Path(folder).glob("epoch-*.pth"):
        if match := re.fullmatch(r"epoch-(\d{1,9})\.pth", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find_snapshots(which: str, folder: str | Path) -> list[Path]:
    """The snapshots that `-e` names: PATH.pth, EPOCH, FIRST-LAST, FIRST- or "last".

    Raises:
        UserError: not of that form, or nothing matches; the message lists the snapshots that exist.
    """
    which = which.strip()
    if which.endswith(".pth"):
        if not Path(which).is_file():
            raise UserError(f"-e {which}: no such file")
        return [Path(which)]
    available = list_epochs(folder)
    have = f"{folder} holds {', '.join(map(str, available)) or 'no snapshots: train first'}"
    if which == "last":
        if (Path(folder) / LAST).is_file():
            return [Path(folder) / LAST]
        raise UserError(f"-e last: no {LAST}; {have}")
    match = re.fullmatch(r"(\d{1,9})(-?)(\d{0,9})", which, flags=re.ASCII)
    if not match or (match[3] and not match[2]):
        raise UserError(f"-e {which}: use PATH.pth, EPOCH, FIRST-LAST, FIRST- or last; {have}")
    first = int(match[1])
    last = int(match[3]) if match[3] else (max(available, default=first) if match[2] else first)
    chosen = [path for epoch, path in available.items() if first <= epoch <= last]
    if not chosen:
        raise UserError(f"-e {which}: no such snapshot; {have}")
    return chosen
