"""The DeepLabv3+ head against plain convolutions and interpolation formulas; UPerNet and DPT."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from furnace.base_model.decoders import ASPP, DECODERS, DeepLabHead
from furnace.base_model.encoders import build_encoder
from furnace.base_model.network import Branch
from furnace.base_model.shortcuts import use_shortcuts
from furnace.utils.errors import UserError
from tests.formulas import batch_norm, bilinear
from tests.golden_values import fill_deterministic, relative_error


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def aspp_formula(features: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Four maps with dilations 1, 6, 12 and 18, normalised by one BatchNorm, plus the pooled branch."""
    maps = [F.conv2d(features, weights["map_convs.0.weight"])]
    for number, rate in enumerate((6, 12, 18), 1):
        padded = F.pad(features, (rate, rate, rate, rate))
        maps.append(F.conv2d(padded, weights[f"map_convs.{number}.weight"], dilation=rate))
    merged = F.conv2d(leaky(batch_norm(torch.cat(maps, 1), weights, "map_bn")), weights["red_conv.weight"])

    pooled = F.conv2d(features.flatten(2).mean(2)[..., None, None], weights["global_pooling_conv.weight"])
    pooled = F.conv2d(leaky(batch_norm(pooled, weights, "global_pooling_bn")), weights["pool_red_conv.weight"])
    return leaky(batch_norm(merged + pooled, weights, "red_bn"))


def test_aspp_is_the_plain_formula(generator):
    aspp = ASPP(6, 4).double().eval()
    fill_deterministic(aspp)
    features = torch.randn(2, 6, 21, 25, dtype=torch.float64, generator=generator)
    assert relative_error(aspp(features), aspp_formula(features, aspp.state_dict())) < 1e-12


@pytest.mark.parametrize("size", [(9, 13), (3, 4), (5, 7)], ids=["upsampled", "equal", "little"])
@pytest.mark.parametrize("shortcuts", [False, True])
def test_decoder_is_the_plain_formula(shortcuts, size, generator):
    decoder = DeepLabHead(5, 6, 4).double().eval()
    fill_deterministic(decoder)
    use_shortcuts(decoder, shortcuts)
    weights = decoder.state_dict()
    low = torch.randn(2, 5, *size, dtype=torch.float64, generator=generator)
    high = torch.randn(2, 6, 3, 4, dtype=torch.float64, generator=generator)

    aspp = aspp_formula(high, {key.removeprefix("aspp."): value for key, value in weights.items()})
    reduced = batch_norm(F.conv2d(low, weights["reduce.0.weight"]), weights, "reduce.1").clamp(min=0)
    expected = torch.cat([bilinear(aspp, size), reduced], 1)
    for conv, norm in (("last_conv.0", "last_conv.1"), ("last_conv.3", "last_conv.4")):
        expected = batch_norm(F.conv2d(F.pad(expected, (1, 1, 1, 1)), weights[f"{conv}.weight"]), weights, norm)
        expected = expected.clamp(min=0)

    assert relative_error(decoder((low, high)), expected) < 1e-12


def gradients(decoder: DeepLabHead, maps: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Gradients of a weighted sum of the output with respect to all parameters, in training mode."""
    output = decoder.train()(maps)
    factors = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).sin().view(output.shape)
    return list(torch.autograd.grad((output * factors).sum(), list(decoder.parameters())))


def test_shortcuts_save_arithmetic_in_training_and_keep_the_gradients(generator):
    decoder = DeepLabHead(5, 6, 48).double()
    fill_deterministic(decoder)
    maps = tuple(torch.randn(2, c, s, s, dtype=torch.float64, generator=generator) for c, s in ((5, 32), (6, 8)))
    found, flops = [], []
    for use in (False, True):
        use_shortcuts(decoder, use)
        with FlopCounterMode(display=False) as counter:
            found.append(gradients(decoder, maps))
        flops.append(counter.get_total_flops())
    for plain, short in zip(*found, strict=True):
        assert relative_error(short, plain) < 1e-9
    assert flops[1] < 0.8 * flops[0]


def test_shortcuts_can_be_compiled_in_one_piece(generator):
    decoder = DeepLabHead(5, 6, 8).double()
    fill_deterministic(decoder)
    use_shortcuts(decoder)
    maps = tuple(torch.randn(2, c, s, s, dtype=torch.float64, generator=generator) for c, s in ((5, 32), (6, 8)))
    expected = gradients(decoder, maps)
    decoder.compile(backend="aot_eager", fullgraph=True)
    for found, gradient in zip(gradients(decoder, maps), expected, strict=True):
        assert relative_error(found, gradient) < 1e-9


def test_shortcuts_compute_in_the_precision_of_autocast(generator):
    decoder = DeepLabHead(5, 6, 8)
    fill_deterministic(decoder)
    use_shortcuts(decoder)
    maps = tuple(torch.randn(2, c, s, s, generator=generator) for c, s in ((5, 32), (6, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        output = decoder(maps)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert {parameter.grad.dtype for parameter in decoder.parameters()} == {torch.float32}
    expected = decoder(maps)
    assert (output - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_head_channels_is_the_width_of_the_whole_head():
    with torch.device("meta"):
        model = Branch(build_encoder("resnet18"), "deeplabv3plus", 11, 24)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["classifier.weight"] == (11, 24, 1, 1)
    assert shapes["head.aspp.red_conv.weight"] == (24, 4 * 24, 1, 1)
    assert shapes["head.last_conv.0.weight"] == (24, 24 + 48, 3, 3)


@pytest.mark.parametrize(
    ("backbone", "decoder", "size", "stride"),
    [
        ("resnet18", "upernet", (33, 49), 4),
        ("test_efficientnet", "upernet", (32, 64), 4),
        ("test_vit", "upernet", (32, 48), 16),
        ("test_vit", "deeplabv3plus", (32, 48), 16),
        ("test_vit", "dpt", (32, 48), 2),  # one side has an odd number of patches
    ],
)
def test_library_decoders_accept_the_maps_and_train(backbone, decoder, size, stride):
    torch.manual_seed(0)
    branch = Branch(build_encoder(backbone), decoder, 3, 8)
    logits = branch(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *(-(-side // stride) for side in size))
    logits.square().sum().backward()
    assert [key for key, parameter in branch.named_parameters() if parameter.grad is None] == []


def test_upernet_starts_at_the_map_of_stride_4():
    torch.manual_seed(0)
    head, _ = DECODERS["upernet"]((2, 3, 5, 7), (2, 4, 8, 16), 3, 4)
    maps = [torch.randn(2, channels, 32 // i, 32 // i) for channels, i in ((2, 2), (3, 4), (5, 8), (7, 16))]
    features = head.eval()(maps)
    assert torch.equal(features, head((torch.zeros_like(maps[0]), *maps[1:])))
    assert not torch.equal(features, head((maps[0], torch.zeros_like(maps[1]), *maps[2:])))
    assert [tuple(conv.weight.shape[:2]) for conv in (head.decoder.psp.blocks[0][1][0],)] == [(4, 7)]


def test_dpt_ignores_padding_beyond_an_odd_border():
    torch.manual_seed(0)
    head, _ = DECODERS["dpt"]((6,) * 4, (14,) * 4, 3, 4)
    maps = [torch.randn(1, 6, 3, 5) for _ in range(4)]
    assert head.eval()(maps).shape == (1, 4, 24, 40)
    padded = [torch.cat([one, one[..., -1:]], -1) for one in maps]
    assert torch.equal(head(padded)[..., :40], head(maps))


@pytest.mark.parametrize(
    ("decoder", "strides", "message"),
    [
        (
            "dpt",
            (4, 8, 16, 16),
            r"C\.decoder = dpt: needs 4 maps of one stride.* strides 4, 8, 16, 16; set C\.decoder =",
        ),
        ("dpt", (16, 16, 16), r"C\.decoder = dpt: needs 4 maps"),
        ("upernet", (2, 4, 8), r"C\.decoder = upernet: needs 3 maps of stride 4 or more; .* 2, 4, 8; set"),
    ],
)
def test_a_decoder_that_does_not_fit_an_encoder_is_refused(decoder, strides, message):
    with pytest.raises(UserError, match=message):
        DECODERS[decoder]((8,) * len(strides), strides, 3, 4)


def test_deeplabv3plus_accepts_maps_of_other_strides():
    maps = [torch.randn(2, 5, 16, 16), torch.randn(2, 6, 8, 8), torch.randn(2, 7, 4, 4)]
    for strides, size in (((2, 4, 8), (8, 8)), ((8, 16, 32), (16, 16))):
        head, classifier = DECODERS["deeplabv3plus"]((5, 6, 7), strides, 3, 4)
        assert classifier(head(maps)).shape == (2, 3, *size)
