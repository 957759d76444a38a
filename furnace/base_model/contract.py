"""Checks of the encoders and decoders that users add, on one small image."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from furnace.utils.errors import UserError

PACKAGE = __name__.partition(".")[0]
SIDE = 64


def is_ours(function: Any) -> bool:
    """True for functions and classes of this package, which its tests check."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == PACKAGE


def check_encoder(name: str, encoder: Any) -> None:
    """Raise UserError unless an encoder is a module with the channels and strides of its maps."""
    if not isinstance(encoder, nn.Module):
        raise UserError(f"encoder {name!r}: build returned a {type(encoder).__name__}; it must return a module")
    for key in ("channels", "strides"):
        if not isinstance(getattr(encoder, key, None), Sequence):
            raise UserError(f"encoder {name!r}: has no {key}; give one number per map, the finest first")
    if len(encoder.channels) != len(encoder.strides):
        raise UserError(f"encoder {name!r}: has {len(encoder.channels)} channels and {len(encoder.strides)} strides")


def check_decoder(name: str, parts: Any) -> tuple[nn.Module, nn.Module]:
    """The head and the classifier that a decoder returned. Raises UserError if it returned anything else."""
    if isinstance(parts, tuple) and len(parts) == 2 and all(isinstance(part, nn.Module) for part in parts):
        return parts
    raise UserError(f"decoder {name!r}: returned {type(parts).__name__}; return two modules, head and classifier")


def check_maps(name: str, encoder: nn.Module) -> None:
    """Raise UserError unless the maps of a small image have the channels and strides of the encoder."""
    done, maps = attempt(encoder)
    if not done:
        return
    if not isinstance(maps, tuple | list) or not all(isinstance(one, Tensor) and one.ndim == 4 for one in maps):
        raise UserError(f"encoder {name!r}: forward gives a {type(maps).__name__}; it must give a tuple of maps")
    found = [(one.shape[1], one.shape[2]) for one in maps]
    wanted = list(zip(encoder.channels, encoder.strides, strict=True))
    fits = len(found) == len(wanted) and all(
        channels == own and abs(height - SIDE / stride) <= 1
        for (channels, height), (own, stride) in zip(found, wanted, strict=True)
    )
    if not fits:
        shown = ", ".join(f"{channels} channels at stride {SIDE / height:g}" for channels, height in found)
        told = ", ".join(f"{channels} at {stride}" for channels, stride in wanted)
        raise UserError(f"encoder {name!r}: gives {shown}, but its channels and strides are {told}")


def check_logits(name: str, branch: nn.Module, num_classes: int) -> None:
    """Raise UserError unless a branch gives one logit per class; `name` is that of its decoder."""
    done, logits = attempt(branch)
    if done and (not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != num_classes):
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise UserError(
            f"decoder {name!r}: gives a {type(logits).__name__}{shape}; it must give logits (B, {num_classes}, h, w), "
            "one per class"
        )


@torch.no_grad()
def attempt(module: nn.Module) -> tuple[bool, Any]:
    """True and the output of a copy of a module for a small image; False and None if it can't take such an image.

    A copy, as modules may keep what they compute first. Tensors without memory, as in a prediction of it, have none.
    """
    if any(type(tensor.data) is not Tensor for tensor in (*module.parameters(), *module.buffers())):
        return False, None
    try:
        return True, copy.deepcopy(module).eval()(torch.zeros(1, 3, SIDE, SIDE))
    except Exception:  # any: of user code; the first step shows it if it is a fault
        return False, None
