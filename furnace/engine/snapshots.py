"""Snapshots: their format, atomic writing, and checks when loading."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from furnace.utils.errors import UserError
from furnace.utils.files import replacing
from furnace.utils.weights import find_state_dict, load_file, strip_prefix

OPTIMIZER = re.compile(r"optimizer_(\d{1,3})")  # one per trained branch
UNKNOWN = (-1, -1)  # progress
ARCHITECTURE = ("num_classes", "backbone", "decoder", "head_channels", "method", "teacher")
OF_NETWORK = r"branch\d+\."  # start of all tensor names
SHOWN = 80  # characters of a setting in a message


@dataclass(frozen=True)
class Snapshot:
    """The state of a run between two iterations.

    Args:
        model: the network's state.
        optimizers: the optimizers' states.
        epoch: the last finished epoch, -1 if none is finished.
        iteration: iterations done since the start of the run; None if the file does not have it.
        settings: of the run; empty in files of the published code.
        scaler: state of the loss scale for C.amp = "fp16"; otherwise empty.
        skipped: iterations skipped so far because their loss was not finite.
        classes: "names" and "palette" of the data set; empty in older files.
        identity: "run" (name of the run), "data" (its training lists), "precision", "versions", and, if they apply,
            "warm_start" and "continues"; empty in older files.
        note: how the weights were found, for files of other programs; "" for ours.
        path: of the file that it was read from.
    """

    model: dict[str, Tensor]
    optimizers: list[dict]
    epoch: int
    iteration: int | None
    settings: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    classes: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    path: str = ""


def is_snapshot_epoch(epoch: int, nepochs: int, snapshot_iter: int) -> bool:
    """True if a snapshot is due after `epoch` (from 0): every `snapshot_iter` after the first sixth, and at the end."""
    return epoch == nepochs - 1 or (epoch > nepochs // 6 and epoch % snapshot_iter == 0)


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot with the keys of the published code and with all values for an exact continuation.

    Raises:
        UserError: the disk is full or the folder can't be written; an existing file stays as it is.
    """
    content = {
        "model": snapshot.model,
        **{f"optimizer_{i}": state for i, state in enumerate(snapshot.optimizers, 1)},
        "epoch": snapshot.epoch,
        "iteration": snapshot.iteration,
        "settings": snapshot.settings,
        "scaler": snapshot.scaler,
        "skipped": snapshot.skipped,
        "classes": snapshot.classes,
        "identity": snapshot.identity,
    }
    with replacing(path, sum(tensor.nbytes for tensor in tensors_in(content))) as part, open(part, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch's writer hides the system's reason in the context of its own error.
            raise _system_error(error) or error from error


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def tensors_in(content: object) -> Iterator[Tensor]:
    """Yield all tensors in nested containers."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(part)


def load_snapshot(path: str | Path) -> Snapshot:
    """Read a snapshot of ours, of the published code or of another program, or bare weights (epoch -1).

    Raises:
        UserError: the file is missing, damaged, not a snapshot, or would run code.
    """
    content = load_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a snapshot (expected a dict with the key 'model')")
    found, taken = find_state_dict(content)
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        keys = [str(key)[:40] for key in list(content)[:6]]
        raise UserError(f"{path}: not a snapshot (expected weights under the key 'model'; keys are {keys})")
    model, removed = strip_prefix({str(name): value for name, value in found.items()}, OF_NETWORK, path)
    note = "; ".join(filter(None, [taken, removed]))
    note = f"{path}: {note}" if note else ""
    if found is content:
        return Snapshot(model, [], -1, None, {}, note=note, path=str(path))
    content = {key: value.item() if isinstance(value, np.generic) else value for key, value in content.items()}
    numbers = sorted(int(match[1]) for key in content if (match := OPTIMIZER.fullmatch(str(key))))
    optimizers = [f"optimizer_{number}" for number in numbers]
    dicts = dict.fromkeys(("settings", "scaler", "classes", "identity", *optimizers), dict)
    for key, kind in {"epoch": int, "skipped": int, **dicts}.items():
        if key in content and not isinstance(content[key], kind):
            raise UserError(f"{path}: not a snapshot ({key!r} is a {type(content[key]).__name__})")
    settings, iteration = content.get("settings", {}), content.get("iteration")
    if settings and not (isinstance(iteration, int) and iteration >= 0):
        raise UserError(f"{path}: not a snapshot ('iteration' is {str(iteration)[:40]})")
    return Snapshot(
        model=model,
        optimizers=[content[key] for key in optimizers],
        epoch=content.get("epoch", -1),
        iteration=iteration if settings else None,  # the published code counts iterations within the epoch
        settings=settings,
        scaler=content.get("scaler", {}),
        skipped=content.get("skipped", 0),
        classes=content.get("classes", {}),
        identity=content.get("identity", {}),
        note=note,
        path=str(path),
    )


def read_progress(path: Path) -> tuple[int, int]:
    """Epoch and iteration of a snapshot, without reading its tensors; `UNKNOWN` if the file has none or is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["epoch"]), int(content["iteration"])
    except Exception:  # the unpickler raises nearly anything for a damaged file
        return UNKNOWN


def load_network(network: nn.Module, snapshot: Snapshot, settings: Mapping[str, Any] | None = None) -> None:
    """Load the weights of a snapshot into `network`; all names and shapes must match.

    The state of a method, such as running counts, may be missing or additional: it follows from other settings.

    Args:
        network: receives the weights.
        snapshot: has the weights.
        settings: the settings of `network`, for the message.

    Raises:
        UserError: there are differences; the message has the first one, and the settings that differ, if known.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in snapshot.model and not is_of_method(name)]
    extra = [name for name in snapshot.model if name not in own and not is_of_method(name)]
    shapes = [name for name in own if name in snapshot.model and own[name].shape != snapshot.model[name].shape]
    if not (missing or extra or shapes):
        network.load_state_dict({name: snapshot.model.get(name, value) for name, value in own.items()})
        return
    if (theirs := count_branches(snapshot.model)) != (ours := count_branches(own)):
        made = "name its method with -o method=..." if theirs else "name them branch1.*"
        if theirs and snapshot.settings:
            made = f"it was made with {differing(snapshot.settings, settings or {})}"
        raise UserError(f"{snapshot.path}: has tensors of {theirs} branches, the network has {ours}; {made}")
    if shapes:
        name = shapes[0]
        what = f"{name} has shape {tuple(snapshot.model[name].shape)}, the network's has {tuple(own[name].shape)}"
    else:
        what = f"{len(missing)} tensors are missing and {len(extra)} are unknown, such as {(missing + extra)[0][:80]}"
    raise UserError(f"{snapshot.path}: {what}; it was made with {differing(snapshot.settings, settings or {})}")


def is_of_method(name: str) -> bool:
    """True for a buffer of the network itself, which belongs to its method (`Method.state`)."""
    return "." not in name


def count_branches(names: Iterable[str]) -> int:
    """Number of branches that tensors belong to."""
    return len({name.partition(".")[0] for name in names if re.match(OF_NETWORK, name)})


def differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Text about the architecture settings that differ between a snapshot and a run, as far as both are known."""
    hints = []
    for key in (key for key in ARCHITECTURE if key in theirs):
        their, our = repr(theirs[key])[:SHOWN], repr(ours[key])[:SHOWN] if key in ours else None
        if their != our:  # compared as text: a file may contain any value
            hints.append(f"C.{key} = {their}" + (f", here {our}" if our else ""))
    return "; ".join(hints) or "other settings: check C.num_classes and C.backbone"


def check_weights(model: Mapping[str, Tensor], path: str | Path, advice: str) -> None:
    """Raise UserError, with advice, if a weight is not finite."""
    for name, tensor in model.items():
        known = tensor.float() if tensor.itemsize == 1 else tensor  # `isfinite` does not support all 8-bit dtypes
        if not torch.isfinite(known).all():
            raise UserError(f"{path}: {name} holds values that are not finite; {advice}")


def check_finite(snapshot: Snapshot) -> None:
    """Raise UserError if a weight or a value of an optimizer is not finite: training can't continue from it."""
    check_weights(snapshot.model, snapshot.path, "continue from an earlier snapshot")
    if any(not torch.isfinite(tensor).all() for tensor in tensors_in(snapshot.optimizers)):
        raise UserError(f"{snapshot.path}: an optimizer's state is not finite; continue from an earlier snapshot")
