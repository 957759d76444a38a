"""Speed up networks for inference: fold BatchNorm into convolutions, convert weights to the precision of autocast."""

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models import resnet as tv

from furnace.engine.numerics import AMP_DTYPES

# In these modules only `bnN` uses the output of `convN`. Tracing finds more pairs, but changes PyTorch for all threads.
PAIRED = (tv.ResNet, tv.BasicBlock, tv.Bottleneck)


def prepare_for_inference(network: nn.Module, amp: str) -> None:
    """Fold BatchNorm and convert weights, in place; the network must be in eval mode and compute under `amp`."""
    for module in list(network.modules()):
        for convolution, norm in chained(module):
            fold(module, convolution, norm)
    if dtype := AMP_DTYPES[amp]:
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.to(dtype)


def chained(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of submodule names: only the second submodule uses the output of the first."""
    if isinstance(module, nn.Sequential):
        yield from pairwise(name for name, _ in module.named_children())
    elif isinstance(module, PAIRED):
        for number in (1, 2, 3):
            if hasattr(module, f"conv{number}"):
                stem = getattr(module, f"conv{number}")
                last = f".{len(stem) - 1}" if isinstance(stem, nn.Sequential) else ""
                yield f"conv{number}{last}", f"bn{number}"


def fold(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a BatchNorm into the convolution before it; other layers stay unchanged."""
    layers = module.get_submodule(convolution), module.get_submodule(norm)
    if [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d]:
        module.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        module.set_submodule(norm, nn.Identity())
