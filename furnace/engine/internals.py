"""All code that needs private names of PyTorch, with public names first or as the fallback where possible."""

import copyreg
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

MATRIX_UNIT = "AMX"


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Nested containers with each tensor replaced by the function of it."""
    return tree_map_only(Tensor, function, tree)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in few kernels, as a network has hundreds of buffers."""
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
    """Name of this CPU's unit for bfloat16 arithmetic; None if it has none."""
    found = getattr(torch.cpu, "get_capabilities", dict)()
    names = {"amx_bf16": MATRIX_UNIT, "avx512_bf16": "AVX512-BF16"}
    return next((name for key, name in names.items() if found.get(key)), None)


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Let an optimizer step unless `skip` () bool. A fused one reads the flag on the device; the host does not wait."""
    if optimizer.defaults.get("fused"):
        # GradScaler passes the flag to fused optimizers in the same way.
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()
        optimizer.step()
    elif not skip:
        optimizer.step()


def memory_format_named(name: str) -> torch.memory_format:
    """A memory format from its text, such as "torch.channels_last"."""
    return getattr(torch, name.removeprefix("torch."))


def share_code() -> None:
    """Let processes share compiled code, whatever they have imported.

    PyTorch finds compiled code by a pickle of the tensors' descriptions. The one of a memory format names the first
    imported module with a variable `torch`.
    """
    copyreg.pickle(torch.memory_format, lambda value: (memory_format_named, (str(value),)))


def find_python_first() -> None:
    """Let the compiler's own processes find Python's modules before installed packages.

    They would look beside PyTorch first. A package `typing` there, which cityscapesScripts installs, ends them.
    """
    os.environ.setdefault("TORCH_CUSTOM_PYTHONPATH", os.pathsep.join(sys.path))


def has_packed_convolutions(weight: Tensor) -> bool:
    """True if `pack_weight` and `packed_convolution` work for such weights on this CPU."""
    operations = torch.ops.mkldnn
    if not (weight.device.type == "cpu" and torch.backends.mkldnn.is_available()):
        return False
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(operations, name) for name in names):
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and operations._is_mkldnn_bf16_supported())


def pack_weight(convolution: nn.Conv2d, shape: Sequence[int]) -> Tensor:
    """The weight in the layout that oneDNN likes best for inputs of a shape (B, C, H, W)."""
    weight, geometry = convolution.weight.detach(), geometry_of(convolution)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))


def packed_convolution(
    convolution: nn.Conv2d, weight: Tensor, maps: Tensor, added: Tensor | None, relu: bool
) -> Tensor:
    """The convolution of maps with its packed weight, plus a map, then ReLU, in one pass; it has no gradient."""
    bias, geometry, after = convolution.bias, geometry_of(convolution), "relu" if relu else "none"
    operation = torch.ops.mkldnn._convolution_pointwise
    if added is None:
        return operation(maps, weight, bias, *geometry, after, [], "")
    unary = after if relu else None
    return operation.binary(maps, added, weight, bias, *geometry, "add", 1.0, unary, [], "")


def geometry_of(convolution: nn.Conv2d) -> tuple[list[int], list[int], list[int], int]:
    """Padding, stride, dilation and groups, as oneDNN's operations expect them."""
    padding, stride, dilation = map(list, (convolution.padding, convolution.stride, convolution.dilation))
    return padding, stride, dilation, convolution.groups


def compilations() -> int:
    """Number of graphs that this process has compiled because PyTorch's cache did not have them."""
    found = torch._dynamo.utils.counters["aot_autograd"]
    return found["autograd_cache_miss"] + found["autograd_cache_bypass"]


def compile_or_run_eagerly() -> None:
    """If compilation fails, run the code without it instead of raising; PyTorch logs the reason."""
    torch._dynamo.config.suppress_errors = True
    # This works only if the backward pass is compiled together with the forward pass.
    torch._functorch.config.force_non_lazy_backward_lowering = True


def compile_without_running(network: nn.Module, *inputs: Any) -> None:
    """Compile a forward pass, and its backward pass, as `network.compile()` would; then leave it.

    Raises:
        Exception: it can't be compiled.
    """
    from torch._inductor.compile_fx import compile_fx

    class Left(Exception):
        """Raised where the compiled code would run."""

    def leave(*_: Any) -> None:
        raise Left

    def compile_and_leave(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        compile_fx(graph, examples)
        return leave

    torch._dynamo.config.suppress_errors = False
    torch._functorch.config.force_non_lazy_backward_lowering = True
    network.compile(backend=compile_and_leave, fullgraph=True)  # in several pieces, only the first would be compiled
    with suppress(Left):
        network(*inputs)


def abort_processes() -> None:
    """Leave the process group without waiting for the other processes."""
    abort = getattr(dist.group.WORLD, "abort", None) or dist.distributed_c10d._abort_process_group
    abort()


class PeakCounter(TorchDispatchMode):
    """Count the bytes of tensors created in this mode; `peak` is the maximum alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = self.run(operation, args, kwargs or {})
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        return output

    def run(self, operation: Any, args: tuple, kwargs: dict) -> Any:
        """Output of an operation, or a placeholder if it reads values, which tensors without memory do not have."""
        if operation is torch.ops.aten.bincount.default:
            return torch.zeros(args[2], dtype=torch.int64)
        if operation is torch.ops.aten._local_scalar_dense.default:
            return 0 if args[0].dtype == torch.bool else 1
        return operation(*args, **kwargs)

    def count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self.alive:
            self.alive[id(storage)] = storage.nbytes()
            self.total += storage.nbytes()
            self.peak = max(self.peak, self.total)
            weakref.finalize(storage, self.free, id(storage))

    def free(self, key: int) -> None:
        self.total -= self.alive.pop(key)


@contextmanager
def counted_without_memory() -> Iterator[PeakCounter]:
    """Context whose new tensors have shapes but no values and no memory; yields the counter of their bytes."""
    with FakeTensorMode(allow_non_fake_inputs=True), PeakCounter() as counter:
        yield counter
