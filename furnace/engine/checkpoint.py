"""Snapshots: what they hold, written whole or not at all, checked when loaded, and found by epoch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from furnace.utils.errors import UserError
from furnace.utils.files import replacing
from furnace.utils.weights import load_file

LAST = "epoch-last.pth"
OPTIMIZERS = ("optimizer_1", "optimizer_2")
ARCHITECTURE = ("num_classes", "backbone", "head_channels", "pretrained_model", "method")
SHOWN = 80  # characters of a setting in a message


@dataclass(frozen=True)
class Snapshot:
    """The state of a run between two iterations.

    Args:
        model: the network's state.
        optimizers: the optimizers' states.
        epoch: the last epoch that was finished, -1 before the first one's end.
        iteration: iterations done since the run's begin; None where the file doesn't say.
        settings: of the run; empty in files of the published code.
        scaler: the state of the loss scaling of C.amp = "fp16"; empty without.
        skipped: iterations skipped so far because their loss was not finite.
    """

    model: dict[str, Tensor]
    optimizers: list[dict]
    epoch: int
    iteration: int | None
    settings: dict[str, Any]
    scaler: dict[str, Any] | None = None
    skipped: int = 0


def is_snapshot_epoch(epoch: int, nepochs: int, snapshot_iter: int) -> bool:
    """Whether a snapshot is due after `epoch` (from 0): every `snapshot_iter` past the first sixth, and at the end."""
    return epoch == nepochs - 1 or (epoch > nepochs // 6 and epoch % snapshot_iter == 0)


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot with the keys of the published code and, beside them, what an exact continuation needs.

    Raises:
        UserError: the disk is full or the folder can't be written; what was there stays.
    """
    content = {
        "model": snapshot.model,
        **{f"optimizer_{i}": state for i, state in enumerate(snapshot.optimizers, 1)},
        "epoch": snapshot.epoch,
        "iteration": snapshot.iteration,
        "settings": snapshot.settings,
        "scaler": snapshot.scaler or {},
        "skipped": snapshot.skipped,
    }
    with replacing(path, tensor_bytes(content)) as part, open(part, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch's writer hides the system's reason in the context of its own error.
            raise _system_error(error) or error from error


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def tensor_bytes(content: object) -> int:
    """Bytes of all tensors within nested containers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content))


def _tensors(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)


def load_snapshot(path: str | Path) -> Snapshot:
    """Read a snapshot of ours or of the published code, or bare weights (epoch -1).

    Raises:
        UserError: the file is missing, damaged, no snapshot, or would run code.
    """
    content = load_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: no snapshot (expected a dict with the key 'model')")
    bare = bool(content) and all(isinstance(value, Tensor) for value in content.values())
    model = content if bare else content.get("model")
    if not isinstance(model, dict) or not model or not all(isinstance(v, Tensor) for v in model.values()):
        keys = [str(key)[:40] for key in list(content)[:6]]
        raise UserError(f"{path}: no snapshot (expected weights under the key 'model'; keys are {keys})")
    model = {str(k).removeprefix("module."): v for k, v in model.items()}
    if bare:
        return Snapshot(model, [], -1, None, {})
    kinds = {"epoch": int, "settings": dict, "scaler": dict, "skipped": int, **dict.fromkeys(OPTIMIZERS, dict)}
    for key, kind in kinds.items():
        if key in content and not isinstance(content[key], kind):
            raise UserError(f"{path}: no snapshot ({key!r} is a {type(content[key]).__name__})")
    settings, iteration = content.get("settings", {}), content.get("iteration")
    if settings and not (isinstance(iteration, int) and iteration >= 0):
        raise UserError(f"{path}: no snapshot ('iteration' is {str(iteration)[:40]})")
    return Snapshot(
        model,
        [content[key] for key in OPTIMIZERS if key in content],
        content.get("epoch", -1),
        iteration if settings else None,  # the published code counts iterations from the epoch's begin
        settings,
        content.get("scaler"),
        content.get("skipped", 0),
    )


def read_progress(path: Path) -> tuple[int, int]:
    """Epoch and iteration of a snapshot, tensors stay on the disk; -1 where a damaged or foreign file has none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["epoch"]), int(content["iteration"])
    except Exception:  # from a damaged file the unpickler raises nearly anything
        return -1, -1


def load_network(
    network: nn.Module, snapshot: Snapshot, path: str | Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Fill `network` from a snapshot; names and shapes must all match.

    Args:
        network: the one to fill.
        snapshot, path: what was loaded, and from where.
        settings: those that `network` was built by, for the message.

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
        what = f"{len(missing)} tensors are missing and {len(extra)} are unknown, such as {(missing + extra)[0][:80]}"
    raise UserError(f"{path}: {what}; it was made with {differing(snapshot.settings, settings or {})}")


def differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings of the architecture in which a snapshot differs from a run, as far as both are known."""
    hints = []
    for key in (key for key in ARCHITECTURE if key in theirs):
        their, our = repr(theirs[key])[:SHOWN], repr(ours[key])[:SHOWN] if key in ours else None
        if their != our:  # as text: a file may hold anything under these names
            hints.append(f"C.{key} = {their}" + (f", here {our}" if our else ""))
    return "; ".join(hints) or "other settings: check C.num_classes and C.backbone"


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, path: str | Path) -> None:
    """Take over the momentum of every parameter, zero where there is none; rates and decays stay those of the settings.

    Raises:
        UserError: the state is of other parameters than the optimizer's.
    """
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups, buffers = state.get("param_groups"), state.get("state")
    sizes = isinstance(groups, list) and [
        len(g["params"]) if isinstance(g, dict) and "params" in g else 0 for g in groups
    ]
    if sizes != [len(group["params"]) for group in own["param_groups"]] or not isinstance(buffers, dict):
        raise UserError(f"{path}: an optimizer's state is of other groups of parameters; it can be evaluated only")
    found = {}
    for index, entry in buffers.items():
        momentum = entry.get("momentum_buffer") if isinstance(entry, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            raise UserError(f"{path}: an optimizer's state has an unknown parameter {str(index)[:40]}")
        if isinstance(momentum, Tensor) and momentum.shape == parameters[index].shape:
            found[index] = {"momentum_buffer": momentum}
        elif momentum is not None:
            raise UserError(f"{path}: an optimizer's state has a momentum of another shape for parameter {index}")
    optimizer.load_state_dict({"state": found, "param_groups": own["param_groups"]})
    for parameter in parameters if optimizer.defaults["momentum"] else []:
        momentum, own_layout = optimizer.state[parameter].get("momentum_buffer"), torch.zeros_like(parameter)
        # Fused kernels want it in the parameter's own memory format, which on a CPU is another than on a GPU.
        optimizer.state[parameter]["momentum_buffer"] = own_layout if momentum is None else own_layout.copy_(momentum)


def check_finite(snapshot: Snapshot, path: str | Path) -> None:
    """Raise UserError where a weight or momentum is not finite: nothing can be learned from there."""
    for name, tensor in snapshot.model.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite; continue from an earlier snapshot")
    if any(not torch.isfinite(tensor).all() for tensor in _tensors(snapshot.optimizers)):
        raise UserError(f"{path}: a momentum is not finite; continue from an earlier snapshot")


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
    if first > last:
        raise UserError(f"-e {which}: runs backwards; {have}")
    chosen = [path for epoch, path in available.items() if first <= epoch <= last]
    if not chosen:
        raise UserError(f"-e {which}: no such snapshot; {have}")
    return chosen


def find_snapshot(which: str, folder: str | Path, what: str) -> Path:
    """The one snapshot that `-e` names, as `what` takes no more; raises UserError for several, too."""
    found = find_snapshots(which, folder)
    if len(found) > 1:
        raise UserError(f"-e {which}: names {len(found)} snapshots; {what} takes one, such as -e last")
    return found[0]
