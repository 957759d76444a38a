"""The network of one or more branches; CPCL's `branch1` is conservative, `branch2` progressive."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from furnace.base_model.contract import check_decoder, check_encoder, check_logits, check_maps, is_ours
from furnace.base_model.decoders import DECODERS
from furnace.base_model.encoders import ENCODERS, build_encoder
from furnace.base_model.pretrained import fill, read_encoder_weights
from furnace.seg_opr.interpolate import upsample
from furnace.utils.errors import UserError

BN_EPS = 1e-5
BN_MOMENTUM = 0.1
Names = str | Sequence[str | None] | None


class Branch(nn.Module):
    """One segmentation network: encoder, head and classifier of the decoder.

    `forward(images (B, 3, H, W))` gives logits (B, num_classes, h, w) at the decoder's output size. `factors`
    (B, C, 1, 1), one tensor per encoder map, multiply these maps (feature dropout).
    """

    def __init__(self, encoder: nn.Module, decoder: str, num_classes: int, width: int):
        super().__init__()
        self.backbone = encoder
        parts = DECODERS.find(decoder)(encoder.channels, encoder.strides, num_classes, width)
        self.head, self.classifier = check_decoder(decoder, parts)

    def forward(self, images: Tensor, factors: Sequence[Tensor] | None = None) -> Tensor:
        maps = self.backbone(images)
        if factors is not None:
            maps = tuple(features * factor.to(features) for features, factor in zip(maps, factors, strict=True))
        logits = self.classifier(self.head(maps))
        # Under autocast, too, the losses use float32; the map is still small here.
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


class Network(nn.Module):
    """Independent branches.

    Args:
        num_classes: K.
        backbone: name of the encoder, or one name per branch.
        pretrained_model: encoder weights, one value or one per branch: the path of a file (its format is recognized
            by the tensors), "imagenet", or None for random weights.
        decoder: name of the decoder.
        head_channels: its width.
        bn_eps, bn_momentum: of every BatchNorm; encoders of timm keep their own values.
        branches: number of branches; CPCL has two.
        tensors: the state dict of a snapshot, which selects the variants of the encoders.

    `net(images (B, 3, H, W), branch=1)` gives logits (B, K, H, W). `state_dict` has the names of the published
    checkpoints. `weights_report` describes the encoders' initial weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Sequence[str] = "resnet50",
        pretrained_model: Names = None,
        *,
        decoder: str = "deeplabv3plus",
        head_channels: int = 256,
        bn_eps: float = BN_EPS,
        bn_momentum: float = BN_MOMENTUM,
        branches: int = 2,
        tensors: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        reports = []
        for number in range(1, branches + 1):
            name, source = each(backbone, branches)[number - 1], each(pretrained_model, branches)[number - 1]
            weights, told = read_encoder_weights(name, source)
            encoder = build_encoder(name, weights or of_branch(tensors or {}, number))
            check_encoder(name, encoder)
            if any(encoder is branch.backbone for branch in self.branches):
                raise UserError(f"encoder {name!r}: build returned the same module again; it must make a new one")
            self.add_module(f"branch{number}", Branch(encoder, decoder, num_classes, head_channels))
            check_added(name, decoder, self.branches[-1], num_classes)
            reports.append(told + fill(encoder, weights, str(source)) if weights else told)
        for branch in self.branches:
            set_norms(branch, bn_eps, bn_momentum)
        self.weights_report = "; ".join(dict.fromkeys(reports))

    @property
    def branches(self) -> list[Branch]:
        """The networks in order, the conservative one first."""
        return list(self.children())

    def forward(self, images: Tensor, branch: int = 1) -> Tensor:
        return upsample(self.logits(images, branch), images.shape[-2:])

    def logits(self, images: Tensor, branch: int = 1, factors: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, K, h, w) before the last upsampling, for losses that upsample; `factors` as in `Branch`."""
        return self.branches[branch - 1](images) if factors is None else self.branches[branch - 1](images, factors)


def check_added(encoder: str, decoder: str, branch: Branch, num_classes: int) -> None:
    """Check a branch whose encoder or decoder a user has added. Raises UserError."""
    entry = ENCODERS.find(encoder)
    if not is_ours(entry.build):
        check_maps(encoder, branch.backbone)
    if not (is_ours(entry.build) and is_ours(DECODERS.find(decoder))):
        check_logits(decoder, branch, num_classes)


def synchronized(network: nn.Module) -> nn.Module:
    """The network with BatchNorm synchronised over all processes."""
    if any(getattr(branch.backbone, "keeps_norms", False) for branch in network.branches):
        from timm.layers import convert_sync_batchnorm  # PyTorch's function drops the activations in timm's norms

        return convert_sync_batchnorm(network)
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def set_norms(branch: Branch, eps: float, momentum: float) -> None:
    """Set `eps` and `momentum` of every BatchNorm, except in an encoder that `keeps_norms` as it was trained."""
    parts = [branch.head, branch.classifier] if getattr(branch.backbone, "keeps_norms", False) else [branch]
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum


def each(value: Names, branches: int) -> list[str | None]:
    """One value per branch."""
    return [value] * branches if value is None or isinstance(value, str) else list(value)


def of_branch(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The encoder tensors of one branch, from the state dict of a snapshot."""
    prefix = f"branch{number}.backbone."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
