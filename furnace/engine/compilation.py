"""torch.compile for the networks, and the folder that keeps compiled code between runs."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from furnace.engine.distributed import world_size
from furnace.engine.internals import compile_or_run_eagerly, find_python_first, share_code
from furnace.utils.settings import Settings

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's variable for all compiled code
# Values of `C.compile`; the last is PyTorch's name for CUDA graphs.
ON, OFF, BACKGROUND, REDUCE_OVERHEAD = "on", "off", "background", "reduce-overhead"
WHEN = {
    ON: "in the first iteration, which takes minutes the first time",
    REDUCE_OVERHEAD: "in the first iteration, which takes minutes the first time, CUDA graphs",
    BACKGROUND: "in another process, while training begins without compiled code",
}


def chosen_compile(C: Settings, device: torch.device) -> str:
    """`C.compile` with "auto" replaced by the choice for the device.

    "auto" means in the background on a GPU, unless BatchNorm is synchronised over several GPUs: each of these layers
    splits the graph, and compiling the pieces costs more time than it saves.
    """
    if C.compile != "auto":
        return C.compile
    return BACKGROUND if device.type == "cuda" and not (C.sync_bn and world_size() > 1) else OFF


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


def prepare_compiler() -> None:
    """Prepare PyTorch, in this process and those that it starts, to compile and keep the code in `code_folder`."""
    find_python_first()
    share_code()
    if folder := code_folder():
        os.environ[VARIABLE] = str(folder)


def compile_networks(networks: Sequence[nn.Module], graphs: bool = False) -> None:
    """Make networks compile at their first forward pass; with `graphs`, CUDA replays their kernels as one launch.

    Each network is compiled as a whole: compiling only its repeated blocks is faster, but then no kernels are fused
    across blocks.
    """
    compile_or_run_eagerly()
    prepare_compiler()
    for network in networks:
        network.compile(mode=REDUCE_OVERHEAD if graphs else None)


def describe_compilation(chosen: str) -> str:
    """Text about compilation for the start-up table."""
    folder = code_folder()
    kept = f"code kept in {folder}" if folder else "code not kept: the user's cache cannot be written"
    return f"{WHEN[chosen]}; {kept}"
