"""Encoder weights from a local file, torchvision or timm, with a report of what matched."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from furnace.base_model import timm_encoders, timm_weights
from furnace.base_model.encoders import ENCODERS, build_encoder
from furnace.base_model.recognition import depth_name, recognize
from furnace.base_model.resnet import BLOCKS
from furnace.utils.errors import UserError
from furnace.utils.weights import MATCH_NEEDED, Weights, read_state_dict, strip_prefix
from furnace.utils.wording import few

IMAGENET = "imagenet"
DAMAGED = "remove it, and the next start downloads it again"
_downloading: ContextVar[bool] = ContextVar("downloading", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Context without downloads: encoders keep random weights if their files are missing, and the report says so."""
    token = _downloading.set(False)
    try:
        yield
    finally:
        _downloading.reset(token)


def read_encoder_weights(name: str, source: str | None) -> tuple[dict[str, Tensor], str]:
    """Weights for an encoder under our names (empty if random), and the start of a line that describes their origin.

    Args:
        name: of the encoder.
        source: path of a file, "imagenet" or None.

    Raises:
        UserError: the file is missing, damaged, or recognized as another encoder's.
    """
    if source is None:
        return {}, "encoder weights: random"
    if source == IMAGENET and not _downloading.get() and not (file := imagenet_file(name)).is_file():
        return {}, f"encoder weights: random for now, nothing is downloaded; training uses {file.name}"
    if source != IMAGENET and not Path(source).exists():
        raise UserError(
            f"C.pretrained_model = {source}: no such file; docs/lists.md says where the published weights are, or use "
            "-o pretrained_model=imagenet"
        )
    read, taken = imagenet_weights(name) if source == IMAGENET else read_state_dict(source)
    if len({match[1] for tensor in read if (match := re.match(r"(?:module\.)?(branch\d+)\.", tensor))}) > 1:
        raise UserError(f"C.pretrained_model = {source}: is a snapshot of several networks; use it as C.warm_start")
    bare, removed = strip_prefix(read, first_name(name), source)
    tensors, origin = recognize(bare) if name in ENCODERS else timm_weights.convert(name, bare, source)
    if name in BLOCKS and (other := depth_name(tensors)) not in (None, name):
        raise UserError(f"{source}: contains weights of {other}, not of C.backbone = {name}; change one of the two")
    return tensors, f"encoder weights ({'; '.join(filter(None, [origin, taken, removed]))}): "


def first_name(name: str) -> str:
    """Regular expression for a tensor in every state dict of an encoder, for any naming of its stem."""
    if name in BLOCKS:
        return r"layer1\.0\.conv1\."
    if name not in ENCODERS:
        return re.escape(timm_weights.first_name(name)) + "$"
    with torch.random.fork_rng(devices=()):
        return re.escape(next(iter(build_encoder(name).state_dict()), "")) + "$"


def fill(encoder: nn.Module, weights: dict[str, Tensor], source: str) -> str:
    """Copy the tensors of `weights` whose names and shapes match into `encoder`; report the others.

    Raises:
        UserError: a tensor has another shape, or fewer than `MATCH_NEEDED` of the encoder's tensors match.
    """
    own = encoder.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    needed = [k for k in own if not k.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in fitting]
    misshapen = [k for k in missing if k in weights]
    unused = [k for k in weights if k not in fitting]
    if misshapen or len(needed) - len(missing) < MATCH_NEEDED * len(needed):
        raise UserError(
            f"{source}: only {len(needed) - len(missing)} of the encoder's {len(needed)} tensors match "
            f"(first mismatch: {(misshapen or missing)[0]}); is it for {likely_encoder(weights, source)}?"
        )
    encoder.load_state_dict(own | fitting)
    report = f"{len(needed) - len(missing)} of {len(needed)} tensors from {source}"
    for what, keys in (("not in the file", missing), ("in the file but unused", unused)):
        if keys:
            report += f"; {what}: {few(keys)}"
    return report


def likely_encoder(weights: Mapping[str, Tensor], source: str) -> str:
    """The likely encoder of mismatched weights, by their blocks or by the name of their file."""
    stem, known = Path(source).stem.replace("-", "_"), (*ENCODERS, *timm_encoders.names())
    named = [name for name in known if re.search(rf"(?<![a-z]){name}(?![0-9a-z])", stem)]
    bare = {key.removeprefix("model."): value for key, value in weights.items()}
    name = depth_name(bare) or max(named, key=len, default=None)
    return f"C.backbone = {name}" if name else "another C.backbone"


def imagenet_file(backbone: str) -> Path:
    """Path at which torchvision or timm stores its weights for an encoder.

    Raises:
        UserError: they have no weights for it.
    """
    if backbone not in ENCODERS:
        return timm_weights.weights_file(backbone)
    if backbone not in BLOCKS:
        raise UserError(f'pretrained_model = "imagenet": there are no weights for {backbone}; name a file, or set None')
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(models.get_model_weights(backbone).DEFAULT.url).name


def imagenet_weights(backbone: str) -> Weights:
    """The weights of torchvision or timm for an encoder, downloaded once into their own caches.

    Raises:
        UserError: the download fails, or the file in the cache is damaged.
    """
    if backbone not in ENCODERS:
        return read_state_dict(timm_weights.download(backbone), DAMAGED)
    file, url = imagenet_file(backbone), models.get_model_weights(backbone).DEFAULT.url
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.stem.rpartition("-")[2]  # torch.hub compares it with the start of the file's SHA-256
            torch.hub.download_url_to_file(url, str(file), digest, progress=sys.stderr.isatty())
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f'pretrained_model = "imagenet": downloading {url} failed ({error}); put the file into {file.parent} '
                "or name another file in C.pretrained_model"
            ) from error
    return read_state_dict(file, DAMAGED)
