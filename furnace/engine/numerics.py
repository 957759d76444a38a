"""Mixed precision: the meaning of "auto" on each device, PyTorch's switches, and the loss scale."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from furnace.engine.internals import MATRIX_UNIT, bfloat16_unit, multiply_all
from furnace.utils.wording import counted

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
FLOAT16_UNITS = (7, 0)  # compute capability from which NVIDIA GPUs compute fast in float16
FIRST_SCALE, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # as in PyTorch's GradScaler


def choose_amp(setting: str, device: torch.device, network: nn.Module) -> tuple[str, str]:
    """`C.amp` with "auto" replaced by the choice, and the reason for it; "" without "auto".

    On a CPU bfloat16 is faster only with matrix or dot-product units for it; matrix units do not speed up depthwise
    convolutions, dot-product units do. GPUs older than Ampere emulate bfloat16, which is slow, but many have units for
    float16.
    """
    if setting != "auto":
        return setting, ""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "on a GPU"
        if torch.cuda.get_device_capability(device) >= FLOAT16_UNITS:
            return "fp16", "this GPU only emulates bfloat16"
        return "off", "this GPU has no units for 16 bits"
    if device.type != "cpu":
        return "off", f"on {device.type}"
    unit = bfloat16_unit()
    if unit is None:
        return "off", "this CPU does not compute in bfloat16"
    if unit == MATRIX_UNIT and has_depthwise(network):
        return "off", f"{unit} does not speed up depthwise convolutions"
    return "bf16", f"this CPU has {unit}"


def has_depthwise(network: nn.Module) -> bool:
    """True if the network has depthwise convolutions."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def memory_format(device: torch.device) -> torch.memory_format:
    """The fastest layout for convolutions: channels last, but contiguous on Metal, which is optimised for it."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The autocast context for forward passes; `amp` is "bf16", "fp16" or "off"."""
    # No cache of weights: a teacher's pass, which keeps no graph, would fill it, and the student's would use it.
    return torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != "off", cache_enabled=False)


def set_precision(amp: str) -> None:
    """Use fast convolution algorithms in this process and, unless `amp` is "off", TF32 for the remaining float32."""
    fast = amp != "off"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = fast
    torch.set_float32_matmul_precision("high" if fast else "highest")


def device_name(device: torch.device) -> str:
    """Name of a device, such as "cuda:0 (NVIDIA H100)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type != "cpu":
        return str(device)
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


class LossScale:
    """Dynamic scale of the loss for float16, with the rules of PyTorch's GradScaler; 1 unless `enabled`.

    Unlike GradScaler's, its state does not change in a bad iteration, and all of it stays on the device.
    """

    def __init__(self, device: torch.device, enabled: bool):
        self.enabled = enabled
        self.scale = torch.full((), FIRST_SCALE if enabled else 1.0, device=device)
        self.good_steps = torch.zeros((), device=device)  # since the scale last changed

    def apply(self, loss: Tensor) -> Tensor:
        """The scaled loss ()."""
        return loss * self.scale if self.enabled else loss

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide the gradients by the scale, in place."""
        if self.enabled:
            multiply_all(gradients, 1 / self.scale)

    def excuses(self, not_finite: Tensor) -> Tensor:
        """True () if gradients are `not_finite` () bool, and the scale, the likely cause, can still become smaller."""
        return not_finite & (self.scale > 1)

    def update(self, overflow: Tensor, frozen: Tensor) -> None:
        """Lower the scale after an `overflow`, raise it after many steps without, keep it if `frozen`; () bool each."""
        if not self.enabled:
            return
        good = torch.where(overflow, 0, self.good_steps + 1)
        grows = good >= GROWTH_STEPS
        scale = torch.where(overflow, self.scale * BACKOFF, torch.where(grows, self.scale * GROWTH, self.scale))
        self.scale = torch.where(frozen, self.scale, scale)
        self.good_steps = torch.where(frozen, self.good_steps, torch.where(grows, 0, good))

    def state_dict(self) -> dict[str, float]:
        """The state as numbers, empty unless enabled; waits for the device."""
        return {"scale": self.scale.item(), "good_steps": self.good_steps.item()} if self.enabled else {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Load a state of this class or of a GradScaler. Raises KeyError, TypeError or ValueError for others."""
        self.scale.fill_(float(state["scale"]))
        self.good_steps.fill_(float(state.get("good_steps", state.get("_growth_tracker", 0))))
