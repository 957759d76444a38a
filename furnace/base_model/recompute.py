"""Recompute an encoder's blocks in the backward pass, to save memory (Chen et al., 2016, arXiv 1604.06174)."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from furnace.utils.errors import UserError

LAYERS = (nn.Conv2d, nn.Linear)
SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute_blocks(encoder: nn.Module) -> None:
    """Keep only the inputs of an encoder's repeated blocks; the backward pass computes the rest again.

    The same applies to the method `stem`, if the encoder has one. Losses, gradients and buffers stay bitwise the same;
    the names in `state_dict` do not change.

    Raises:
        UserError: no block repeats.
    """
    found = blocks(encoder)
    if not found:
        raise UserError(
            "C.checkpoint = True: an encoder of C.backbone has no repeated blocks; raise C.accumulate instead"
        )
    for block in found:
        block.forward = partial(recomputed, block, block.forward)
    if inspect.ismethod(getattr(encoder, "stem", None)):
        encoder.stem = partial(recomputed, encoder, encoder.stem)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The innermost repeated blocks: members of a sequence in which a class occurs at least twice."""
    found = []
    for child in module.children():
        members = [member for member in sequence(child) if has_layers(member)]
        repeats = len(members) > len({type(member) for member in members})
        for member in members:
            found += blocks(member) or ([member] if repeats else [])
    return found


def sequence(module: nn.Module) -> Iterator[nn.Module]:
    """Members of a sequence of modules, including nested sequences; any other module is its only member.

    A module that consists of several blocks of one class is a sequence, too.
    """
    children = list(module.children())
    alike = len(children) > len({type(child) for child in children}) == 1 and has_layers(children[0])
    if alike or isinstance(module, SEQUENCES):
        for child in children:
            yield from sequence(child)
    else:
        yield module


def has_layers(module: nn.Module) -> bool:
    """True if a module contains convolutions or linear layers (being one itself does not count)."""
    return any(isinstance(part, LAYERS) for part in module.modules() if part is not module)


def recomputed(module: nn.Module, function: Callable, *args: Any, **options: Any) -> Any:
    """Output of `function`, a pass through `module`; the backward pass computes its intermediate tensors again."""
    if not torch.is_grad_enabled():
        return function(*args, **options)
    # The compiler does not allow contexts and does not need them: it does not repeat changes of buffers.
    context = {} if torch.compiler.is_compiling() else {"context_fn": partial(contexts, module)}
    return checkpoint(function, *args, use_reentrant=False, **context, **options)


def contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a forward pass and of its recomputation."""
    return nullcontext(), buffers_kept(module)


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Let the recomputation change copies of the buffers: BatchNorm has counted this batch already."""
    owners = [(part, name, buffer) for part in module.modules() for name, buffer in part.named_buffers(recurse=False)]
    try:
        for part, name, buffer in owners:
            setattr(part, name, buffer.clone())
        yield
    finally:
        for part, name, buffer in owners:
            setattr(part, name, buffer)
