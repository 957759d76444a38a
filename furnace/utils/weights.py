"""Reading weights from files: nothing is executed, and every refusal names the file."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from furnace.utils.errors import UserError

CODE = re.compile(r"GLOBAL (\S+)")
MATCH_NEEDED = 0.9  # share of a network's tensors that a file must hold to count as its weights


def load_file(path: str | Path) -> object:
    """Unpickle tensors and plain containers from `path` on the CPU, and nothing else.

    Raises:
        UserError: the file is missing, damaged, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = CODE.search(str(error))
        what = f"it asks for {code[1]}, and code in a file is never run" if code else "damaged or not a PyTorch file"
        raise UserError(f"{path}: refused: {what}") from error
    except Exception as error:  # from a damaged file the unpickler raises nearly anything
        raise UserError(f"{path}: damaged or not a PyTorch file; copy or download it again") from error
    return content


def check_archive(path: Path) -> None:
    """Raise BadZipFile if a part of a PyTorch file differs from its checksum or unpacks to more than the file.

    PyTorch checks neither, and would continue with weights that a bad disk or copy has changed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("parts are larger than the file")
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("checksum")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A state dict from `path`, bare or under `model` or `state_dict`, without the `module.` prefix."""
    content = load_file(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict (looked for tensors by name, bare or under 'model')")
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
