"""Encoders of timm against timm's own features, and their registry entries."""

import sys

import pytest
import timm
import torch
from torch import nn

from furnace.base_model.encoders import ENCODERS, build_encoder
from furnace.base_model.listing import LISTED, encoder_table
from furnace.base_model.network import Network, synchronized
from furnace.utils.errors import UserError
from tests.base_model.processes import imported_modules

PYRAMIDS = {
    "test_resnet": ((2, 4, 8, 16, 16), 5),
    "test_efficientnet": ((2, 4, 8, 16, 16), 5),
    "test_convnext": ((4, 8, 16, 16), 4),
    "pvt_v2_b0": ((4, 8, 16, 32), 4),
}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_gives_the_features_of_timm(name: str):
    strides, count = PYRAMIDS[name]
    encoder = build_encoder(name).eval()
    options = {"output_stride": 16} if 32 not in strides else {}
    reference = timm.create_model(name, features_only=True, feature_cls="getter", **options).eval()
    reference.model.load_state_dict(encoder.model.state_dict())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, expected = encoder(images), reference(images)
    assert encoder.strides == strides and len(maps) == count
    for found, wanted, channels, stride in zip(maps, expected, encoder.channels, strides, strict=True):
        assert torch.equal(found, wanted)
        assert found.shape == (1, channels, 64 // stride, 96 // stride)


def test_a_plain_vit_gives_four_normalised_maps_of_evenly_spaced_blocks():
    encoder = build_encoder("test_vit").eval()
    whole = timm.create_model("test_vit", dynamic_img_size=True).eval()
    whole.load_state_dict(encoder.model.state_dict(), strict=False)
    images = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    tokens = []
    for block in whole.blocks:
        block.register_forward_hook(lambda _, __, output: tokens.append(output))
    with torch.no_grad():
        maps = encoder(images)
        whole(images)
        depth = len(tokens)
        wanted = [whole.norm(tokens[depth * part // 4 - 1])[:, 1:].mT.reshape(1, -1, 3, 5) for part in (1, 2, 3, 4)]
    assert (encoder.strides, encoder.channels) == ((16,) * 4, (64,) * 4)
    assert len({one.sum().item() for one in maps}) > 1
    for found, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_every_parameter_has_a_gradient(name: str):
    """Training in several processes needs a gradient of every parameter."""
    encoder = build_encoder(name)
    sum(one.square().sum() for one in encoder(torch.randn(2, 3, 32, 32))).backward()
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_small_patch14_dinov2", {(56, 70): True, (56, 64): False, (518, 518): True}),
        ("vit_small_patch16_dinov3", {(64, 96): True, (56, 64): False}),
        ("beit_base_patch16_224", {(224, 224): True, (208, 224): False}),
    ],
)
def test_an_entry_knows_the_sizes_that_fit(name: str, sizes: dict):
    entry = ENCODERS.find(name)
    assert {size: entry.fits(*size) for size in sizes} == sizes
    cfg = timm.get_pretrained_cfg(name)
    assert (entry.mean, entry.std) == (cfg.mean, cfg.std)


def test_convolutional_pyramids_take_any_size_and_our_names_build_our_encoders():
    assert ENCODERS.find("test_resnet").fits is None
    assert not hasattr(build_encoder("resnet18"), "model")
    assert build_encoder("resnet18.a1_in1k").strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", r"did you mean resnet50 or resnet51q"),
        ("vit_smal_patch14_dinov2", r"vit_small_patch14_dinov2"),
        ("resnet50.nonsense", r"no encoder 'resnet50\.nonsense'; did you mean resnet50"),
        ("qqqq", r"no encoder 'qqqq'; find names with --list-encoders WORD"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(name: str, message: str):
    with pytest.raises(UserError, match=message):
        build_encoder(name)


def test_norms_of_timm_keep_their_settings_and_those_of_the_head_follow_ours():
    network = Network(3, "tf_efficientnet_lite0", head_channels=8, branches=1, bn_eps=1e-4, bn_momentum=0.3)
    own, head = (
        {(m.eps, m.momentum) for m in part.modules() if isinstance(m, nn.BatchNorm2d)}
        for part in (network.branch1.backbone, network.branch1.head)
    )
    assert (own, head) == ({(1e-3, 0.1)}, {(1e-4, 0.3)})


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_efficientnet", "resnet18"])
def test_synchronised_norms_compute_the_same(name: str):
    """PyTorch's own conversion loses the activations inside timm's norms."""
    network = Network(3, name, head_channels=8, branches=1).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    converted = synchronized(network).eval()
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == norms > 6
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert torch.equal(converted(images), expected)


def test_timm_is_imported_only_for_its_names():
    loaded = imported_modules("from furnace.base_model.network import Network; Network(3, 'resnet18', branches=1)")
    assert "furnace.base_model.network" in loaded
    assert not {"timm", "segmentation_models_pytorch", "huggingface_hub"} & loaded
    assert "timm" in sys.modules, "this process has it, so that the test can fail"


def test_the_list_of_encoders_has_ours_and_timms():
    table = encoder_table("resnet18")
    names = [str(cell) for cell in table.columns[0].cells]
    assert names[0] == "resnet18" and "resnet18d" in names and len(set(names)) == len(names)
    count = sum(parameter.numel() for parameter in build_encoder("resnet18").parameters())
    assert str(next(iter(table.columns[1].cells))) == f"{count / 1e6:.1f} M"
    vits = encoder_table("test_vit")
    assert str(next(iter(vits.columns[4].cells))) == "16" and vits.caption is None
    with pytest.raises(UserError, match="--list-encoders qqqq: no encoder name contains this"):
        encoder_table("qqqq")


def test_a_long_list_says_how_many_more(monkeypatch):
    monkeypatch.setattr("furnace.base_model.listing.LISTED", 2)
    table = encoder_table("test_vit")
    assert table.row_count == 2 < LISTED
    assert str(table.caption) == f"{len(timm.list_models('*test_vit*')) - 2} more: use a longer word"
