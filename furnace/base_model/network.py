"""The two-branch network of CPCL: `branch1` is conservative, `branch2` progressive."""

from torch import Tensor, nn

from furnace.base_model.deeplab import DeepLabV3Plus
from furnace.base_model.pretrained import IMAGENET, load_backbone_weights
from furnace.seg_opr.interpolate import upsample

BN_EPS = 1e-5
BN_MOMENTUM = 0.1


class Network(nn.Module):
    """Independent DeepLabv3+ networks of one architecture.

    Args:
        num_classes: K.
        backbone: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
        pretrained_model: backbone weights for every branch: the path of a `v1c` file, "imagenet" for
            torchvision's weights (which take the plain stem), or None for random ones.
        stem: "deep" or "plain"; by default what the pretrained weights need.
        head_channels: width of the decoder.
        branches: how many networks; CPCL has two.

    `net(images (B, 3, H, W), branch=1)` gives logits (B, K, H, W). The names in `state_dict` are those of
    the published checkpoints.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        pretrained_model: str | None = None,
        *,
        stem: str | None = None,
        head_channels: int = 256,
        bn_eps: float = BN_EPS,
        bn_momentum: float = BN_MOMENTUM,
        branches: int = 2,
    ):
        super().__init__()
        stem = stem or ("plain" if pretrained_model == IMAGENET else "deep")
        for number in range(1, branches + 1):
            model = DeepLabV3Plus(num_classes, backbone, stem, head_channels)
            initialize_head(model)
            self.add_module(f"branch{number}", model)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = bn_eps, bn_momentum
        self.num_classes = num_classes
        self.weights_report = load_backbone_weights(self, backbone, pretrained_model)

    @property
    def branches(self) -> list[DeepLabV3Plus]:
        """The networks in order, the conservative one first."""
        return list(self.children())

    def forward(self, images: Tensor, branch: int = 1) -> Tensor:
        return upsample(self.logits(images, branch), images.shape[-2:])

    def logits(self, images: Tensor, branch: int = 1) -> Tensor:
        """Logits (B, K, H/4, W/4) before the last upsampling, which the losses can do on the fly."""
        return self.branches[branch - 1](images)


def initialize_head(model: DeepLabV3Plus) -> None:
    """Kaiming normal (fan in, ReLU) for the convolutions of head and classifier, ones and zeros for the norms."""
    for part in (model.head, model.classifier):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
