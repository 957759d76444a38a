"""Weights of timm's encoders: a package's file against its author's network, other files, failing downloads."""

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

from furnace.base_model import timm_weights
from furnace.base_model.network import Network
from furnace.base_model.pretrained import imagenet_file, no_downloads, read_encoder_weights
from furnace.base_model.timm_weights import packaged
from furnace.utils.errors import UserError


@pytest.fixture
def offline(tmp_path: Path, monkeypatch) -> list[str]:
    """The requested files; the hub's cache is empty and there is no network."""
    asked = []

    def fails(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return asked


def branch_of(name: str, source: str | None) -> Network:
    torch.manual_seed(0)
    return Network(3, name, source, head_channels=8, branches=1).eval()


@torch.no_grad()
def test_imagenet_weights_of_a_package_give_the_features_of_its_own_network(offline: list[str]):
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(packaged("tf_efficientnet_lite0")))
    network = branch_of("tf_efficientnet_lite0", "imagenet")
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    ends = {}  # by number of channels, the last output
    for block in theirs.eval()._blocks:
        block.register_forward_hook(lambda _, __, output: ends.update({output.shape[1]: output}))
    theirs(images)
    maps = network.branch1.backbone(images)
    # Up to stride 16 the networks are the same; after that, ours is dilated.
    for found, channels in zip(maps[:4], (16, 24, 40, 112), strict=True):
        torch.testing.assert_close(found, ends[channels])
    assert "240 of 240 tensors" in network.weights_report and "package efficientnet-lite" in network.weights_report
    assert offline == []


@pytest.mark.parametrize("other", ["tf_efficientnet_lite1", "vit_tiny_patch16_224"])
def test_a_package_for_another_encoder_is_refused_with_the_fitting_name(other: str):
    message = r"lite0.*\.pth: its 296 tensors differ in shape .* is it for C\.backbone = tf_efficientnet_lite0\?"
    with pytest.raises(UserError, match=message):
        read_encoder_weights(other, str(packaged("tf_efficientnet_lite0")))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet"])
def test_a_file_of_timm_fills_the_encoder(name: str, tmp_path: Path):
    torch.manual_seed(1)
    model = timm.create_model(name)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    network = branch_of(name, str(tmp_path / "w.pth"))
    for key, value in network.branch1.backbone.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    needed = sum(not key.endswith("num_batches_tracked") for key in network.branch1.backbone.state_dict())
    assert f"{needed} of {needed} tensors" in network.weights_report
    assert ".classifier" not in network.weights_report and ".head" not in network.weights_report


def test_position_embeddings_of_another_size_are_resampled_as_in_timm(tmp_path: Path):
    larger = timm.create_model("test_vit", img_size=320)
    torch.save(larger.state_dict(), tmp_path / "larger.pth")
    network = branch_of("test_vit", str(tmp_path / "larger.pth"))
    expected = timm.layers.resample_abs_pos_embed(larger.pos_embed, new_size=(10, 10), num_prefix_tokens=1)
    torch.testing.assert_close(network.branch1.backbone.model.pos_embed.data, expected.data)


@pytest.mark.parametrize(
    ("name", "of", "file", "hint"),
    [
        ("test_convnext", "test_efficientnet", "test_efficientnet-abc.pth", r"C\.backbone = test_efficientnet\?"),
        ("test_efficientnet", "resnet18", "weights.pth", r"C\.backbone = resnet18\?"),
        ("resnet34", "test_vit", "test_vit.pth", r"C\.backbone = test_vit\?"),
        ("test_efficientnet", "test_vit", "weights.pth", r"another C\.backbone\?"),
    ],
)
def test_weights_of_another_encoder_name_the_fitting_one(name: str, of: str, file: str, hint: str, tmp_path: Path):
    torch.save(timm.create_model(of).state_dict(), tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: only .* match .*; is it for {hint}"):
        branch_of(name, str(tmp_path / file))


def test_a_failed_download_is_one_line_that_says_what_to_do(offline: list[str]):
    with pytest.raises(UserError) as error:
        branch_of("test_vit", "imagenet")
    assert str(error.value) == (
        'pretrained_model = "imagenet": downloading the weights of test_vit from '
        "https://huggingface.co/timm/test_vit.r160_in1k failed (no network); get model.safetensors on another machine "
        "and name its path in C.pretrained_model"
    )
    assert offline == ["timm/test_vit.r160_in1k/model.safetensors"]


def test_a_dry_run_downloads_nothing_and_says_so(offline: list[str], tmp_path: Path):
    with no_downloads():
        weights, report = read_encoder_weights("test_vit", "imagenet")
    assert (weights, offline) == ({}, [])
    assert report == "encoder weights: random for now, nothing is downloaded; training uses model.safetensors"
    assert imagenet_file("test_vit") == tmp_path / "models--timm--test_vit.r160_in1k" / "model.safetensors"


def test_a_file_in_the_cache_is_used(offline: list[str], tmp_path: Path, monkeypatch):
    model, cached = timm.create_model("test_vit"), str(tmp_path / "cached.safetensors")
    save_file(model.state_dict(), cached)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    network = branch_of("test_vit", "imagenet")
    assert torch.equal(network.branch1.backbone.model.cls_token, model.cls_token) and offline == []


def test_an_encoder_without_weights_is_named():
    with pytest.raises(UserError, match=r"timm has no weights for darknet17; name a file"):
        timm_weights.weights_file("darknet17")
