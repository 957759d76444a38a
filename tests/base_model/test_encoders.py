"""DilatedResNet against its formulas, torchvision's network and plain convolutions."""

import re
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from furnace.base_model.encoders import ENCODERS, build_encoder
from furnace.base_model.resnet import BLOCKS, DilatedResNet
from furnace.utils.errors import UserError
from tests.formulas import batch_norm
from tests.golden_values import fill_deterministic, relative_error

EXPANSION = {"resnet18": 1, "resnet34": 1, "resnet50": 4, "resnet101": 4, "resnet152": 4}


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def plain_backbone(request) -> tuple[str, DilatedResNet]:
    """A backbone with a plain stem, in eval mode, float64, with deterministic weights."""
    backbone = DilatedResNet(request.param, "plain").double().eval()
    fill_deterministic(backbone)
    return request.param, backbone


@pytest.mark.parametrize("stem", ["deep", "light", "plain"])
@pytest.mark.parametrize("name", BLOCKS)
def test_maps_have_the_declared_channels_and_strides(name, stem):
    with torch.device("meta"):
        backbone = DilatedResNet(name, stem)
        for height, width in ((64, 96), (33, 49), (65, 17)):
            maps = backbone(torch.zeros(2, 3, height, width))
            for found, base, channels, stride in zip(
                maps, (64, 128, 256, 512), backbone.channels, (4, 8, 16, 16), strict=True
            ):
                assert channels == base * EXPANSION[name]
                assert found.shape == (2, channels, ceil(height / stride), ceil(width / stride))
    assert backbone.strides == (4, 8, 16, 16)


@pytest.mark.parametrize("name", BLOCKS)
def test_number_of_convolutions_is_that_of_the_name(name):
    with torch.device("meta"):
        convolutions = {stem: count_convolutions(DilatedResNet(name, stem)) for stem in ("plain", "deep")}
    fully_connected, more_in_the_deep_stem = 1, 2
    assert convolutions["plain"] + fully_connected == int(name.removeprefix("resnet"))
    assert convolutions["deep"] == convolutions["plain"] + more_in_the_deep_stem


def count_convolutions(backbone: DilatedResNet) -> int:
    """Number of convolutions on the main path."""
    return sum(isinstance(m, nn.Conv2d) and "downsample" not in name for name, m in backbone.named_modules())


@pytest.mark.parametrize("name", BLOCKS)
def test_only_layer4_is_dilated_by_2_4_and_8(name):
    with torch.device("meta"):
        backbone = DilatedResNet(name)
    seen = set()
    for path, module in backbone.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        block = re.match(r"layer4\.(\d)\.", path)
        if block:
            dilation = 2 ** (int(block[1]) + 1) if module.kernel_size == (3, 3) else 1
            assert module.stride == (1, 1), path
            seen.add(dilation)
        else:
            dilation = 1
        assert module.dilation == (dilation, dilation), path
        if module.kernel_size == (3, 3):
            assert module.padding == (dilation, dilation), path
    assert seen - {1} == ({2, 4} if name == "resnet18" else {2, 4, 8})


@pytest.mark.parametrize(("stem", "first", "last"), [("deep", 64, 128), ("light", 32, 64)])
def test_deep_stems_are_three_convolutions_and_recognised_by_their_tensors(stem, first, last):
    with torch.device("meta"):
        backbone = DilatedResNet("resnet50", stem)
        again = build_encoder("resnet50", backbone.state_dict())
    convolutions = [m for m in backbone.conv1 if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride, m.kernel_size) for m in convolutions] == [
        (3, first, (2, 2), (3, 3)),
        (first, first, (1, 1), (3, 3)),
        (first, last, (1, 1), (3, 3)),
    ]
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    assert shapes == {name: value.shape for name, value in again.state_dict().items()}


def test_an_unknown_encoder_is_named_with_the_closest():
    with pytest.raises(UserError, match="no encoder 'resnet51'; did you mean resnet50 or"):
        build_encoder("resnet51")
    assert ENCODERS["resnet50"].mean == (0.485, 0.456, 0.406)


def test_plain_stem_computes_what_torchvision_does_up_to_layer3(plain_backbone):
    name, backbone = plain_backbone
    reference = models.get_model(name).double().eval()
    fill_deterministic(reference)
    images = torch.randn(2, 3, 33, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    low_expected = reference.layer1(reference.maxpool(reference.relu(reference.bn1(reference.conv1(images)))))
    layer3_expected = reference.layer3(reference.layer2(low_expected))

    low = backbone(images)[0]
    assert relative_error(low, low_expected) < 1e-12
    assert relative_error(backbone.layer3(backbone.layer2(low)), layer3_expected) < 1e-12


def test_layer4_is_the_plain_formula_with_dilations(plain_backbone):
    name, backbone = plain_backbone
    weights = backbone.layer4.state_dict()
    features = torch.randn(1, 256 * EXPANSION[name], 5, 7, dtype=torch.float64)

    expected = features
    for block, dilation in zip(range(len(backbone.layer4)), (2, 4, 8), strict=False):
        expected = residual_block(expected, weights, f"{block}.", dilation)

    assert relative_error(backbone.layer4(features), expected) < 1e-12


def residual_block(features: Tensor, weights: dict[str, Tensor], prefix: str, dilation: int) -> Tensor:
    """Output of a residual block of stride 1 in eval mode, computed from its weights."""

    def conv_bn(x: Tensor, conv: str, bn: str) -> Tensor:
        kernel = weights[f"{prefix}{conv}.weight"]
        spread = dilation if kernel.shape[-1] == 3 else 1
        x = F.conv2d(x, kernel, dilation=spread, padding=spread * (kernel.shape[-1] // 2))
        return batch_norm(x, weights, prefix + bn)

    last = 3 if f"{prefix}conv3.weight" in weights else 2
    x = features
    for number in range(1, last + 1):
        x = conv_bn(x, f"conv{number}", f"bn{number}")
        if number < last:
            x = x.clamp(min=0)
    shortcut = features
    if f"{prefix}downsample.0.weight" in weights:
        shortcut = conv_bn(features, "downsample.0", "downsample.1")
    return (x + shortcut).clamp(min=0)


@pytest.mark.parametrize("stem", ["plain", "light", "deep"])
def test_random_weights_are_pytorch_s_own_in_all_convolutions(stem: str) -> None:
    """The published backbone keeps PyTorch's default; torchvision's weights are larger in layers 2 to 4."""
    torch.manual_seed(0)
    for name, module in DilatedResNet("resnet18", stem).named_modules():
        if isinstance(module, nn.Conv2d):
            inputs = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            bound = inputs**-0.5  # bound of the uniform distribution
            assert module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
