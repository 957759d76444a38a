"""torch.compile of the networks, and the folder that keeps their compiled code between runs."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from furnace.engine.internals import compile_or_run_eagerly

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's own, for all that it compiles
REDUCE_OVERHEAD = "reduce-overhead"  # `C.compile`, and PyTorch's name for CUDA graphs


def chosen_compile(setting: str, device: torch.device, synchronised: bool = False) -> bool:
    """`C.compile` with "auto" decided: on a GPU, unless BatchNorm is `synchronised` over several: each of these layers
    would break the graph in two, and compiling the pieces costs more than they gain."""
    return device.type == "cuda" and not synchronised if setting == "auto" else setting != "off"


def code_folder() -> Path | None:
    """Folder of compiled code: the one that the user's environment names, else one in the user's cache.

    None if that cannot be written; then PyTorch has one in the temporary folder.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        folder = (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "cpcl" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no such disk, no right to write, no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def compile_networks(networks: Sequence[nn.Module], graphs: bool = False) -> None:
    """Let networks compile themselves at their first pass; `graphs` lets CUDA replay their kernels as one launch.

    Each as a whole: its repeated blocks alone compile faster, but then nothing is fused across their borders.
    """
    compile_or_run_eagerly()
    if folder := code_folder():
        os.environ[VARIABLE] = str(folder)
    for network in networks:
        network.compile(mode=REDUCE_OVERHEAD if graphs else None)


def describe_compilation(setting: str) -> str:
    """Line of the start-up table about compiled networks."""
    folder = code_folder()
    kept = f"code kept in {folder}" if folder else "code not kept: the user's cache cannot be written"
    graphs = ", CUDA graphs" if setting == REDUCE_OVERHEAD else ""
    return f"in the first iteration, which takes minutes the first time{graphs}; {kept}"
