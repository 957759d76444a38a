"""The devices of a run: what `-d` names, one process for each, and the device of this process."""

import ctypes
import os
import platform
import sys
from collections.abc import Sequence

import torch

from furnace.engine.distributed import CPU, launched
from furnace.engine.launcher import run_processes
from furnace.utils.errors import UserError

MPS = torch.device("mps")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
OURS = "FURNACE_LAUNCHED"  # set in the processes of `launch`, not in those of the user's torchrun


def local_device(devices: Sequence[torch.device]) -> torch.device:
    """The device of this process, made the current one: under torchrun, the GPU of its local rank.

    Raises:
        UserError: torchrun started more processes than there are GPUs.
    """
    device = devices[0]
    if device.type != "cuda":
        return device
    if launched():
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise UserError(f"torchrun started process {number + 1} for {count} GPUs; lower --nproc_per_node")
        device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let the C library keep freed memory for the next maps of this process, if it is glibc.

    By default it returns large blocks to the system, which clears each page before it hands it out
    again. The peak stays the same.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)  # no blocks of their own
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def launch(devices: Sequence[torch.device], restarts: int = 0) -> None:
    """Run one process per device and exit; do nothing for one device or if torchrun started this process.

    If a process is killed, all start again and continue from the last save, up to `restarts` times.
    """
    if launched() or len(devices) == 1:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[device.index] for device in devices)
    os.environ[OURS] = "1"
    sys.exit(run_processes(len(devices), sys.argv, restarts))


def choose_devices(text: str | None) -> list[torch.device]:
    """The devices that `-d` names, for this process or for all processes that it will `launch`.

    Raises:
        UserError: as in `parse_devices`, or `-d` names GPUs but the user's torchrun assigns one to each process.
    """
    if not launched() or (text or "").strip().lower() in (CPU.type, MPS.type):
        return parse_devices(text)
    if text and OURS not in os.environ:
        raise UserError(
            f"-d {text}: torchrun gives each process the GPU of its local rank; remove -d and choose the GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    return parse_devices(None)  # `launch` has made only the chosen GPUs visible


def parse_devices(text: str | None) -> list[torch.device]:
    """The devices that `-d` names: "0", "0,2", "0-3", "*", "cuda", "mps", "cpu"; None: the first GPU, else the CPU.

    Raises:
        UserError: the text has another form, or names a device twice or one that does not exist.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text is None:
        return [torch.device("cuda", 0)] if count else [MPS] if torch.backends.mps.is_available() else [CPU]
    name = text.strip().lower()
    if name == CPU.type:
        return [CPU]
    if name == MPS.type:
        if not torch.backends.mps.is_available():
            raise UserError(f"-d {text}: this machine or this PyTorch has no Apple GPU; use -d cpu")
        return [MPS]
    if name == "cuda":
        indices = [0]
    elif name == "*":
        indices = list(range(count))
    else:
        indices = [index for part in text.split(",") for index in _parse_range(part.strip(), text)]
    missing = [index for index in indices if index >= count]
    if missing or not indices:
        have = f"0 to {count - 1}" if count else "none; use -d cpu"
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            have += f" (numbered within CUDA_VISIBLE_DEVICES={visible})"
        raise UserError(f"-d {text}: no GPU {missing[0] if missing else ''}".rstrip() + f"; available: {have}")
    if len(set(indices)) < len(indices):
        raise UserError(f"-d {text}: names a device twice")
    return [torch.device("cuda", index) for index in indices]


def _parse_range(part: str, text: str) -> Sequence[int]:
    first, dash, last = part.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isdecimal() and number.isascii() and len(number) < 4 for number in numbers):
        raise UserError(f"-d {text}: not a device; use 0, or 0,2, or 0-3, or *, or mps, or cpu")
    if int(numbers[0]) > int(numbers[1]):
        raise UserError(f"-d {text}: the range {part} is reversed")
    return range(int(numbers[0]), int(numbers[1]) + 1)
