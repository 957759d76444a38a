"""Encoders of timm (Wightman, github.com/huggingface/pytorch-image-models): pyramids and plain ViTs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from furnace.utils.errors import UserError
from furnace.utils.wording import one_line

OUTPUT_STRIDE = 16
MAPS_OF_VIT = 4  # evenly spaced over its blocks, as decoders for ViTs expect
# Tried in this order: most pyramids can be dilated, most transformers can take images of any size.
OPTIONS: tuple[dict[str, Any], ...] = ({"output_stride": OUTPUT_STRIDE}, {"dynamic_img_size": True}, {})


class TimmEncoder(nn.Module):
    """A model of timm without its classifier.

    `forward(images (B, 3, H, W))` gives all maps of a pyramid, the finest first, or four normalised maps of a plain
    ViT, all of one stride.

    Args:
        name: of the model, with or without a tag for its weights.
        options: keyword arguments of timm's `create_model`.
    """

    keeps_norms = True

    def __init__(self, name: str, options: Mapping[str, Any]):
        import timm

        super().__init__()
        self.model = timm.create_model(name, num_classes=0, **options)
        stages = list(self.model.feature_info)
        self.plain = len({stage["reduction"] for stage in stages}) == 1 and len(stages) >= MAPS_OF_VIT
        self.indices = list(range(len(stages)))
        if self.plain:
            self.indices = [len(stages) * part // MAPS_OF_VIT - 1 for part in range(1, MAPS_OF_VIT + 1)]
        width = "num_chs_norm" if self.plain else "num_chs"  # a last norm may project
        self.channels = tuple(stages[i].get(width, stages[i]["num_chs"]) for i in self.indices)
        self.strides = tuple(stages[i]["reduction"] for i in self.indices)
        if hasattr(self.model, "prune_intermediate_layers"):  # parameters that no map depends on
            self.indices = list(self.model.prune_intermediate_layers(self.indices, prune_norm=not self.plain))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.forward_intermediates(
            images, indices=self.indices, norm=self.plain, output_fmt="NCHW", intermediates_only=True
        )
        return tuple(maps)


def names() -> list[str]:
    """Names of all architectures of timm."""
    import timm

    return timm.list_models()


def is_name(name: str) -> bool:
    """True for an architecture of timm, with or without a tag for its weights, such as `resnet50.a1_in1k`."""
    import timm

    architecture, dot, _ = name.partition(".")
    return timm.is_model(architecture) and (not dot or name in timm.list_pretrained(f"{architecture}.*"))


@lru_cache
def entry(name: str) -> tuple:
    """The arguments of a name's `Encoder` in `ENCODERS`. Raises UserError if timm can't return the model's maps."""
    module, options = on_meta(name)
    cfg = module.model.pretrained_cfg
    sized = cfg.get("fixed_input_size") or module.plain
    fits = lru_cache(partial(takes, module)) if sized else None
    return lambda tensors: TimmEncoder(name, options), tuple(cfg["mean"]), tuple(cfg["std"]), fits


@lru_cache(maxsize=4)
def on_meta(name: str) -> tuple[TimmEncoder, dict[str, Any]]:
    """The encoder on the meta device (no memory for weights), and the first of `OPTIONS` that it accepts."""
    errors = []
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        for options in OPTIONS:
            try:
                return TimmEncoder(name, options).eval(), options
            except Exception as error:  # models raise various exceptions for unknown options
                errors.append(error)
    raise UserError(f"C.backbone = {name}: timm can't return its maps ({one_line(errors[-1])}); choose another encoder")


@torch.inference_mode()
def takes(encoder: TimmEncoder, height: int, width: int) -> bool:
    """True if an encoder on the meta device accepts images of a size."""
    try:
        encoder(torch.zeros(1, 3, height, width, device="meta"))
    except Exception:  # models raise various exceptions for wrong sizes
        return False
    return True


@contextmanager
def padding_of_any_size() -> Iterator[None]:
    """In the block, networks can be exported for images of any size.

    timm computes the padding of TensorFlow's convolutions and poolings in floating point, which exported programs can't
    store, and which takes PyTorch minutes to simplify.
    """
    from timm.layers import padding

    original = padding.get_same_padding

    def same_padding(side: Any, kernel_size: int, stride: int, dilation: int) -> Any:
        if isinstance(side, Tensor):  # while TorchScript traces
            return original(side, kernel_size, stride, dilation)
        reach = (kernel_size - 1) * dilation + 1
        total = reach - stride + -side % stride
        return total if reach >= stride else torch.sym_max(total, 0)

    padding.get_same_padding = same_padding
    try:
        yield
    finally:
        padding.get_same_padding = original
