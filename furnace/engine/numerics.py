"""Mixed precision and compilation: what "auto" means on a device, and the switches that go with it."""

from contextlib import AbstractContextManager

import torch

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def chosen_amp(setting: str, device: torch.device) -> str:
    """`C.amp` with "auto" decided: bf16 on a GPU, off on a CPU."""
    return setting if setting != "auto" else "bf16" if device.type == "cuda" else "off"


def chosen_compile(setting: str, device: torch.device, synchronised: bool = False) -> bool:
    """`C.compile` with "auto" decided: on a GPU, unless BatchNorm is `synchronised` over several: each of these layers
    would break the graph in two, and compiling the pieces costs more than they gain."""
    return device.type == "cuda" and not synchronised if setting == "auto" else setting == "on"


def memory_format(device: torch.device) -> torch.memory_format:
    """What convolutions are fastest on: channels last on a GPU."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The context for forward passes; `amp` is "bf16", "fp16" or "off"."""
    return torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != "off")


def set_precision(amp: str) -> None:
    """For this process: fast convolution algorithms, and TF32 where float32 remains, unless `amp` is "off"."""
    fast = amp != "off"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = fast
    torch.set_float32_matmul_precision("high" if fast else "highest")
