"""Backbone weights from a local file or from torchvision, with a report of what matched."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from furnace.utils.errors import UserError
from furnace.utils.weights import MATCH_NEEDED, read_state_dict

IMAGENET = "imagenet"
_downloading: ContextVar[bool] = ContextVar("downloading", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Within it, backbones whose weights would have to be downloaded stay random, and the report says so."""
    token = _downloading.set(False)
    try:
        yield
    finally:
        _downloading.reset(token)


def load_backbone_weights(network: nn.Module, backbone: str, pretrained_model: str | None) -> str:
    """Fill every branch's backbone and return one line that says how many tensors matched and which did not.

    Raises:
        UserError: the file is missing or damaged, a tensor has another shape, or hardly any fits.
    """
    if pretrained_model is None:
        return "backbone weights: random"
    if pretrained_model == IMAGENET and not _downloading.get() and not (file := imagenet_file(backbone)).is_file():
        return f"backbone weights: random for now, as nothing is downloaded; a start takes {file.name}"
    weights = imagenet_weights(backbone) if pretrained_model == IMAGENET else read_state_dict(pretrained_model)
    return " ".join(dict.fromkeys(fill(branch.backbone, weights, pretrained_model) for branch in network.children()))


def fill(backbone: nn.Module, weights: dict[str, Tensor], source: str) -> str:
    """Copy the tensors of `weights` whose name and shape fit into `backbone`; report the others."""
    own = backbone.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    needed = [k for k in own if not k.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in fitting]
    misshapen = [k for k in missing if k in weights]
    unused = [k for k in weights if k not in fitting and not k.startswith("fc.")]
    if misshapen or len(needed) - len(missing) < MATCH_NEEDED * len(needed):
        raise UserError(
            f"{source}: only {len(needed) - len(missing)} of the backbone's {len(needed)} tensors match "
            f"(first that does not: {(misshapen or missing)[0]}); is it for another backbone or stem than C.backbone?"
        )
    own.update(fitting)
    backbone.load_state_dict(own)
    report = f"backbone weights: {len(needed) - len(missing)} of {len(needed)} tensors from {source}"
    for what, keys in (("not in the file", missing), ("in the file but unused", unused)):
        if keys:
            report += f"; {what}: {', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''}"
    return report


def imagenet_file(backbone: str) -> Path:
    """Where torchvision keeps its ImageNet weights, once they are downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(models.get_model_weights(backbone).DEFAULT.url).name


def imagenet_weights(backbone: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of a plain-stem ResNet, downloaded once into torch's own cache."""
    try:
        return models.get_model_weights(backbone).DEFAULT.get_state_dict(progress=True, map_location="cpu")
    except (URLError, OSError) as error:
        cache = imagenet_file(backbone).parent
        url = models.get_model_weights(backbone).DEFAULT.url
        raise UserError(
            f'pretrained_model = "imagenet": downloading {url} failed ({error}); put the file into {cache} '
            "or name another file in C.pretrained_model"
        ) from error
