"""Everything that relies on private names of PyTorch, each with the public way first or as the fallback."""

from collections.abc import Sequence

import torch
import torch._dynamo
import torch._functorch.config
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

MATRIX_UNIT = "AMX"


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target; in few kernels, as a network has hundreds of buffers."""
    if hasattr(torch, "_foreach_copy_"):
        torch._foreach_copy_(targets, sources)
    else:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def multiply_all(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply each tensor in place by a factor () on its device."""
    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(tensors, factor)
    else:
        for tensor in tensors:
            tensor.mul_(factor)


def bfloat16_unit() -> str | None:
    """Name of this CPU's unit for bfloat16 arithmetic, None without."""
    found = getattr(torch.cpu, "get_capabilities", dict)()
    names = {"amx_bf16": MATRIX_UNIT, "avx512_bf16": "AVX512-BF16"}
    return next((name for key, name in names.items() if found.get(key)), None)


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Let an optimizer step unless `skip` () bool. A fused one looks at the flag itself, so that nobody waits."""
    if optimizer.defaults.get("fused"):
        # The contract between GradScaler and fused optimizers.
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()
        optimizer.step()
    elif not skip:
        optimizer.step()


def compile_or_run_eagerly() -> None:
    """If compiling fails, run the code as it is (PyTorch logs why), instead of raising."""
    torch._dynamo.config.suppress_errors = True
    # The backward pass must be compiled with the forward pass for that.
    torch._functorch.config.force_non_lazy_backward_lowering = True


def abort_processes() -> None:
    """End this process's part in the group without waiting for the others."""
    abort = getattr(dist.group.WORLD, "abort", None) or dist.distributed_c10d._abort_process_group
    abort()
