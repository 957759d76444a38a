"""torch.compile for the networks, and the folder that keeps compiled code between runs."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from furnace.engine.internals import compile_or_run_eagerly

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's variable for all compiled code
REDUCE_OVERHEAD = "reduce-overhead"  # value of `C.compile`, and PyTorch's name for CUDA graphs


def chosen_compile(setting: str, device: torch.device, synchronised: bool = False) -> bool:
    """True if `C.compile` and the device ask for compiled networks.

    "auto" means on a GPU, unless BatchNorm is `synchronised` over several GPUs: each of these layers splits the graph,
    and compiling the pieces costs more time than it saves.
    """
    return device.type == "cuda" and not synchronised if setting == "auto" else setting != "off"


def code_folder() -> Path | None:
    """Folder for compiled code: named by the environment variable, else in the user's cache.

    None if the cache is not writable; PyTorch then uses the temporary folder.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        folder = (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "cpcl" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # missing disk, no write permission, no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def compile_networks(networks: Sequence[nn.Module], graphs: bool = False) -> None:
    """Make networks compile at their first forward pass; with `graphs`, CUDA replays their kernels as one launch.

    Each network is compiled as a whole: compiling only its repeated blocks is faster, but then no kernels are fused
    across blocks.
    """
    compile_or_run_eagerly()
    if folder := code_folder():
        os.environ[VARIABLE] = str(folder)
    for network in networks:
        network.compile(mode=REDUCE_OVERHEAD if graphs else None)


def describe_compilation(setting: str) -> str:
    """Text about compilation for the start-up table."""
    folder = code_folder()
    kept = f"code kept in {folder}" if folder else "code not kept: the user's cache cannot be written"
    graphs = ", CUDA graphs" if setting == REDUCE_OVERHEAD else ""
    return f"in the first iteration, which takes minutes the first time{graphs}; {kept}"
