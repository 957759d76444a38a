"""Read weights from files without executing anything; every error names the file."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from furnace.utils.errors import UserError
from furnace.utils.wording import few

SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", SAFETENSORS)
CODE = re.compile(r"GLOBAL (\S+)")
MATCH_NEEDED = 0.9  # share of a network's tensors that a file must contain to count as its weights
# Keys under which programs store a state dict, the trained weights before their moving averages.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "model_ema", "state_dict_ema", "ema")
DEEPEST = 3  # nested containers
# Names that torch.compile and DistributedDataParallel insert anywhere in the names of tensors.
WRAPPERS = ("_orig_mod", "module")
BESIDE = ("n_averaged",)  # stored with the weights by torch.optim.swa_utils.AveragedModel
HEAD_BYTES = 512
NUMBERS = "?efdg" + np.typecodes["AllInteger"]


def numpy_scalars() -> list:
    """The classes and the function that create NumPy's numbers in pickles, under the names of NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *{type(np.dtype(kind)) for kind in NUMBERS}]


def load_file(path: str | Path, remedy: str = "copy or download it again") -> object:
    """Load tensors, plain containers and NumPy's numbers from `path` on the CPU, and nothing else.

    Args:
        path: a file that `torch.save` or safetensors wrote.
        remedy: what to do about a damaged file.

    Raises:
        UserError: the file is missing, unreadable or damaged, or would run code.
    """
    path = Path(path)
    head = first_bytes(path)
    try:
        if path.suffix == SAFETENSORS or head[8:9] == b"{":  # after the length of its header
            return load_safetensors(path)
        check_archive(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(numpy_scalars()):
            warnings.simplefilter("ignore")  # about pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := CODE.search(str(error)):
            raise UserError(
                f"{path}: refused: it asks for {code[1]}, and code in a file is never run; if you trust its origin, "
                "torch.load it with weights_only=False and torch.save its state dict alone"
            ) from error
        raise UserError(f"{path}: refused: {fault_of(path, head)}; {remedy}") from error
    except Exception as error:  # for damaged files the unpickler raises various exceptions
        raise UserError(f"{path}: {fault_of(path, head)}; {remedy}") from error


def first_bytes(path: Path) -> bytes:
    """The first `HEAD_BYTES` of a file, or all. Raises UserError if it is not a file or can't be read."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file in it")
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path")
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); check its permissions") from error


def fault_of(path: Path, head: bytes) -> str:
    """Reason why a file contains no weights, from its first bytes."""
    if not head:
        return "damaged: the file is empty"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "damaged: it is a web page instead of the file"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the file, which `git lfs pull` fetches"
    if is_torchscript(path):
        return "a TorchScript program, not a state dict"
    return f"damaged or not a {'safetensors' if path.suffix == SAFETENSORS else 'PyTorch'} file"


def is_torchscript(path: Path) -> bool:
    """True for the archives of `torch.jit.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def check_archive(path: Path) -> None:
    """Raise BadZipFile if a part of a PyTorch file differs from its checksum or unpacks to more than the file.

    PyTorch checks neither and would continue with weights that a bad disk or copy has changed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("parts are larger than the file")
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("checksum")


class Weights(NamedTuple):
    """Tensors by name, and a note about how they were found ("" if there is nothing to say)."""

    tensors: dict[str, Tensor]
    note: str


def find_state_dict(content: object) -> tuple[object, str]:
    """The state dict within the content of a file, bare or under keys of `CONTAINERS`; and a note about the choice."""
    notes = []
    for _ in range(DEEPEST):
        keys = [key for key in CONTAINERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        if not keys:
            break
        others = [repr(key) for key in keys[1:]]
        if others or keys[0] not in CONTAINERS[:2]:
            notes.append(f"taken from {keys[0]!r}" + (f", not from {few(others)}" if others else ""))
        content = content[keys[0]]
    return content, "; ".join(notes)


def read_state_dict(path: str | Path, remedy: str = "copy or download it again") -> Weights:
    """The state dict of a file, bare or under one of `CONTAINERS`, with the names of the file.

    Raises:
        UserError: as in `load_file`, or the file contains no state dict.
    """
    content = load_file(path, remedy)
    found, note = find_state_dict(content)
    if not isinstance(found, dict) or not any(isinstance(v, Tensor) for v in found.values()):
        keys = f"; its keys are {few([str(key)[:40] for key in found], 6)}" if isinstance(found, dict) and found else ""
        raise UserError(f"{path}: contains no state dict (looked for tensors by name, bare or under 'model'{keys})")
    return Weights({str(k): v for k, v in found.items() if isinstance(v, Tensor)}, note)


def strip_prefix(tensors: Mapping[str, Tensor], mark: str, path: str | Path) -> Weights:
    """Tensors with the network's own names, without prefixes of other programs.

    Args:
        tensors: under names such as `_orig_mod.module.branch1.head.weight`.
        mark: regular expression for the start of a name in the network, such as "branch1".
        path: of the file, for messages.

    Returns:
        The tensors, and a note about what was removed. If no name has the mark, only `WRAPPERS` go.

    Raises:
        UserError: the file contains several such networks, or a name twice.
    """
    wrappers = [name for name in WRAPPERS if any(name in tensor.split(".") for tensor in tensors)]
    named = {".".join(part for part in name.split(".") if part not in WRAPPERS): v for name, v in tensors.items()}
    if len(named) < len(tensors):
        raise UserError(
            f"{path}: contains the same tensors with and without {few(wrappers)}; save one state dict alone"
        )
    prefix = find_prefix(named, mark, path)
    outside = {name for name in named if name in BESIDE or not name.startswith(prefix)}
    own = {name.removeprefix(prefix): value for name, value in named.items() if name not in outside}
    removed = [f"{name}." for name in wrappers] + [prefix] * bool(prefix)
    notes = [f"removed from its names: {', '.join(removed)}"] if removed else []
    if outside:
        notes.append(f"not used: {few(sorted(outside))}")
    return Weights(own, "; ".join(notes))


def find_prefix(names: Collection[str], mark: str, path: str | Path) -> str:
    """The prefix of all names before `mark`, "" if no name has it. Raises UserError if there are several."""
    found = {match[1] for name in names if (match := re.match(rf"((?:.*?\.)?)(?:{mark})", name))}
    outer: list[str] = []
    for one in sorted(found):  # a network may have parts that look like itself: the outermost is meant
        if not outer or not one.startswith(outer[-1]):
            outer.append(one)
    if len(outer) > 1:
        raise UserError(f"{path}: contains several networks ({few(outer)}); save the state dict of one alone")
    return outer[0] if outer else ""
