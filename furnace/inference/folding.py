"""Networks made faster for inference: BatchNorm folded into convolutions, and weights in the precision of autocast."""

from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from furnace.engine.numerics import AMP_DTYPES
from furnace.seg_opr.interpolate import upsample


def prepare_for_inference(network: nn.Module, amp: str) -> None:
    """Fold BatchNorm and convert weights, in place; the network must be in eval mode and compute under `amp`."""
    for branch in network.children():
        for part in branch.children():  # encoder, decoder: one that can't be traced leaves the other
            fold_batchnorm(part)
    if dtype := AMP_DTYPES[amp]:
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.to(dtype)


def fold_batchnorm(module: nn.Module) -> int:
    """Fold each BatchNorm that alone follows a convolution into it, in place; returns how many there were.

    The order of layers comes from symbolic tracing. A module that can't be traced stays as it is.
    """
    try:
        graph = fx.Tracer(autowrap_functions=(upsample,)).trace(module)
    except Exception:  # tracing runs the code of any encoder on stand-ins for tensors
        return 0
    layers = dict(module.named_modules())
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    folded = 0
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        pair = [layers.get(n.target) if isinstance(n, fx.Node) else None for n in (before, node)]
        once = all(isinstance(n, fx.Node) and targets.count(n.target) == 1 for n in (before, node))
        if [type(layer) for layer in pair] == [nn.Conv2d, nn.BatchNorm2d] and once and len(before.users) == 1:
            module.set_submodule(before.target, fuse_conv_bn_eval(*pair))
            module.set_submodule(node.target, nn.Identity())
            folded += 1
    return folded
