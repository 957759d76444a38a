"""Backbone weights from files: every form that is in use, and a refusal that names the file for all others."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision import models

from furnace.base_model.network import Network
from furnace.base_model.resnet import DilatedResNet
from furnace.utils.errors import UserError

PREFIX = "module."


def network_with(weights: Path | str | None, **changes) -> Network:
    return Network(3, "resnet18", None if weights is None else str(weights), head_channels=8, **changes)


@pytest.fixture(scope="module")
def backbone_weights() -> dict[str, Tensor]:
    """Deep-stem ResNet-18 weights as in a `v1c` file, with the classifier that such files hold."""
    torch.manual_seed(3)
    weights = DilatedResNet("resnet18").state_dict()
    return {**weights, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def assert_loaded(network: Network, weights: dict[str, Tensor], skip: tuple[str, ...] = ()) -> None:
    for branch in network.branches:
        for key, value in branch.backbone.state_dict().items():
            if key not in skip:
                assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {"state_dict": weights},
        lambda weights: {PREFIX + key: value for key, value in weights.items()},
        lambda weights: {"model": {PREFIX + key: value for key, value in weights.items()}},
    ],
    ids=["bare", "under model", "under state_dict", "module prefix", "module prefix under model"],
)
def test_weights_fill_the_backbones_of_all_branches(wrap, backbone_weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "resnet18_v1c.pth"
    torch.save(wrap(backbone_weights), path)
    network = network_with(path)
    assert_loaded(network, backbone_weights)
    needed = sum(not key.endswith("num_batches_tracked") for key in network.branch1.backbone.state_dict())
    assert network.weights_report == f"backbone weights: {needed} of {needed} tensors from {path}"


def test_report_names_what_the_file_lacks_and_what_it_has_too_much(
    backbone_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "nearly.pth"
    lacking = {key: value for key, value in backbone_weights.items() if key != "layer4.1.bn2.bias"}
    torch.save({**lacking, "surplus.weight": torch.zeros(2)}, path)
    network = network_with(path)
    assert_loaded(network, backbone_weights, skip=("layer4.1.bn2.bias",))
    assert "not in the file: layer4.1.bn2.bias" in network.weights_report
    assert "in the file but unused: surplus.weight" in network.weights_report
    assert "fc." not in network.weights_report


def test_no_file_means_random_weights_and_says_so() -> None:
    assert network_with(None).weights_report == "backbone weights: random"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
        network_with(tmp_path / "nowhere.pth")


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(200)}, path)
    with pytest.raises(UserError, match=r"other\.pth: only 0 of .* match .*backbone or stem"):
        network_with(path)


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_plain_stem_weights_are_refused_for_the_deep_stem(name: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save(DilatedResNet(name, "plain").state_dict(), path)
    with pytest.raises(UserError, match=r"plain\.pth: only .* match .*backbone or stem"):
        Network(3, name, str(path), head_channels=8, branches=1)


def test_weights_of_another_depth_are_refused(backbone_weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "resnet18_v1c.pth"
    torch.save(backbone_weights, path)
    with pytest.raises(UserError, match=r"resnet18_v1c\.pth: only .* match"):
        Network(3, "resnet34", str(path), head_channels=8, branches=1)


def test_code_in_a_weights_file_is_not_run(trapped_file: tuple[Path, Path]) -> None:
    path, marker = trapped_file
    with pytest.raises(UserError, match=r"trapped\.pth: refused"):
        network_with(path)
    assert not marker.exists()


def test_imagenet_takes_the_plain_stem_and_torchvisions_cached_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    weights = models.resnet18().state_dict()
    cached = tmp_path / "hub/checkpoints" / Path(models.ResNet18_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    torch.save(weights, cached)

    network = network_with("imagenet")

    assert network.branch1.backbone.conv1.kernel_size == (7, 7)
    assert_loaded(network, weights)


def test_failed_download_names_the_address_and_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"download\.pytorch\.org/models/resnet18.* failed .*no network.*checkpoints"):
        network_with("imagenet")
