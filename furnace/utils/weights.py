"""Reading weights from files: nothing is executed, and every refusal names the file."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from furnace.utils.errors import UserError

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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "not a PyTorch file"
        raise UserError(f"{path}: refused, damaged or not made of plain tensors ({reason[:160]})") from error
    except Exception as error:  # from a damaged file the unpickler raises nearly anything
        raise UserError(f"{path}: damaged or not a PyTorch file; copy or download it again") from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A state dict from `path`, bare or under `model` or `state_dict`, without the `module.` prefix."""
    content = load_file(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict (looked for tensors by name, bare or under 'model')")
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
