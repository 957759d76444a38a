"""Encoder weights from files: every common format is read; for all others, an error names the file."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision import models

from furnace.base_model.encoders import ENCODERS, Encoder
from furnace.base_model.network import Network
from furnace.base_model.pretrained import read_encoder_weights
from furnace.base_model.resnet import DilatedResNet
from furnace.utils.errors import UserError


def network_with(weights: Path | str | None, **changes) -> Network:
    return Network(3, "resnet18", None if weights is None else str(weights), head_channels=8, **changes)


@pytest.fixture(scope="module")
def backbone_weights() -> dict[str, Tensor]:
    """Weights of a ResNet-18 with a deep stem, as in a `v1c` file, with the classifier that such files contain."""
    torch.manual_seed(3)
    weights = DilatedResNet("resnet18").state_dict()
    return {**weights, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def weights_file(backbone_weights, tmp_path) -> Path:
    torch.save(backbone_weights, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def assert_loaded(network: Network, weights: dict[str, Tensor], skip: tuple[str, ...] = ()) -> None:
    for branch in network.branches:
        for key, value in branch.backbone.state_dict().items():
            if key not in skip:
                assert torch.equal(value, weights[key]), key


def report_of(origin: str, weights: dict[str, Tensor], path: Path, *notes: str) -> str:
    needed = sum(not key.endswith("num_batches_tracked") for key in weights)
    return f"encoder weights ({'; '.join([origin, *notes])}): {needed} of {needed} tensors from {path}"


def test_weights_fill_the_backbones_of_all_branches(weights_file, backbone_weights):
    network = network_with(weights_file)
    assert_loaded(network, backbone_weights)
    backbone = network.branch1.backbone.state_dict()
    assert network.weights_report == report_of("v1c, deep stem 64-64-128", backbone, weights_file)


def test_report_names_missing_and_unused_tensors(backbone_weights, tmp_path):
    path = tmp_path / "nearly.pth"
    lacking = {key: value for key, value in backbone_weights.items() if key != "layer4.1.bn2.bias"}
    torch.save({**lacking, "surplus.weight": torch.zeros(2)}, path)
    network = network_with(path)
    assert_loaded(network, backbone_weights, skip=("layer4.1.bn2.bias",))
    assert "not in the file: layer4.1.bn2.bias" in network.weights_report
    assert "in the file but unused: surplus.weight" in network.weights_report
    assert "fc." not in network.weights_report


def test_without_a_file_the_report_says_random_weights():
    assert network_with(None).weights_report == "encoder weights: random"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
        network_with(tmp_path / "nowhere.pth")


def test_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(200)}, path)
    with pytest.raises(UserError, match=r"other\.pth: only 0 of .* match .*another C\.backbone"):
        network_with(path)


def test_code_in_a_weights_file_is_not_run(trapped_file):
    path, marker = trapped_file
    with pytest.raises(UserError, match=r"trapped\.pth: refused"):
        network_with(path)
    assert not marker.exists()


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    """Path of the weights of a ResNet-18 in the cache of torch.hub; the folder exists, the file does not."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    path = tmp_path / "hub/checkpoints" / Path(models.ResNet18_Weights.DEFAULT.url).name
    path.parent.mkdir(parents=True)
    return path


def test_imagenet_takes_the_plain_stem_and_torchvisions_cached_file(cached):
    weights = models.resnet18().state_dict()
    torch.save(weights, cached)

    network = network_with("imagenet")

    assert network.branch1.backbone.conv1.kernel_size == (7, 7)
    assert_loaded(network, weights)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"<html>Proxy: log in</html>", "a web page"), (b"\x80\x02}q", "damaged or not a")],
)
def test_a_damaged_file_in_the_cache_is_named_with_what_to_do(content, reason, cached):
    cached.write_bytes(content)
    with pytest.raises(UserError, match=rf"{cached.name}: .*{reason}.*; remove it, and the next start downloads it"):
        network_with("imagenet")


def test_a_download_is_compared_with_the_hash_in_its_name(cached, monkeypatch):
    wrong = cached.parent / "page.html"
    wrong.write_text("<html>Proxy: log in</html>")
    url = f"{wrong.as_uri()}#{cached.name}"
    real = torch.hub.download_url_to_file
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda _, *args, **options: real(url, *args, **options))
    with pytest.raises(UserError, match=r"failed .*invalid hash value"):
        network_with("imagenet")
    assert not cached.exists()


def test_failed_download_names_the_address_and_the_cache(monkeypatch, cached):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"download\.pytorch\.org/models/resnet18.* failed .*no network.*checkpoints"):
        network_with("imagenet")


# Names of our deep stems' tensors in other programs.
SEMSEG = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3"}
V1C, MMSEG_V1C = "v1c, deep stem 64-64-128", "mmsegmentation v1c, deep stem 32-32-64"
MMSEG = dict(zip(SEMSEG, (f"stem.{i}" for i in (0, 1, 3, 4, 6, 7)), strict=True))


def called(weights: dict[str, Tensor], names: dict[str, str], prefix: str = "") -> dict[str, Tensor]:
    """Weights with the names of another program."""
    return {
        prefix + ".".join((names.get(module, module), part)): value
        for name, value in weights.items()
        for module, _, part in [name.rpartition(".")]
    }


@pytest.mark.parametrize(
    ("stem", "rename", "told"),
    [
        ("plain", lambda w: w | {"fc.weight": torch.zeros(2, 2)}, ["torchvision, plain stem"]),
        ("deep", lambda w: called(w, SEMSEG), ["semseg v2, deep stem 64-64-128"]),
        ("light", lambda w: {"state_dict": called(w, MMSEG)}, [MMSEG_V1C]),
        (
            "light",
            lambda w: {"state_dict": called(w, MMSEG, "backbone.") | {"decode_head.conv_seg.weight": torch.zeros(1)}},
            [MMSEG_V1C, "removed from its names: backbone.", "not used: decode_head.conv_seg.weight"],
        ),
        ("light", lambda w: w, ["timm or Gluon C, deep stem 32-32-64"]),
        (
            "deep",
            lambda w: {"model_ema": called(w, {}, "_orig_mod.module.model.encoder."), "args": "text"},
            [V1C, "taken from 'model_ema'", "removed from its names: _orig_mod., module., model.encoder."],
        ),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_file_is_recognised_by_its_tensors_and_decides_the_stem(name, stem, rename, told, tmp_path):
    torch.manual_seed(4)
    weights = DilatedResNet(name, stem).state_dict()
    torch.save(rename(weights), tmp_path / "weights.pth")
    network = Network(3, name, str(tmp_path / "weights.pth"), head_channels=8, branches=1)
    assert_loaded(network, weights)
    assert network.weights_report == report_of(told[0], weights, tmp_path / "weights.pth", *told[1:])
    opened = Network(3, name, head_channels=8, branches=1, tensors=network.state_dict())
    opened.load_state_dict(network.state_dict())


def test_weights_of_another_depth_name_the_encoder_that_fits(weights_file):
    message = r"weights\.pth: contains weights of resnet18, not of C\.backbone = resnet34"
    with pytest.raises(UserError, match=message):
        Network(3, "resnet34", str(weights_file), head_channels=8, branches=1)


def test_branches_may_have_encoders_and_weights_of_their_own(weights_file, backbone_weights):
    network = Network(3, ("resnet18", "resnet34"), (str(weights_file), None), head_channels=8)
    assert torch.equal(network.branch1.backbone.bn1.weight, backbone_weights["bn1.weight"])
    assert len(network.branch2.backbone.layer3) == 6
    assert network.weights_report.endswith("; encoder weights: random")
    assert network.eval()(torch.zeros(1, 3, 32, 32), 2).shape == (1, 3, 32, 32)


def test_a_snapshot_and_a_missing_file_are_refused_with_advice(backbone_weights, tmp_path):
    both = called(backbone_weights, {}, "module.branch1.backbone.")
    both |= called(backbone_weights, {}, "module.branch2.backbone.")
    torch.save({"model": both}, tmp_path / "epoch-3.pth")
    with pytest.raises(
        UserError, match=r"^C\.pretrained_model = .*epoch-3\.pth: is a snapshot .* use it as C\.warm_start"
    ):
        network_with(tmp_path / "epoch-3.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file; docs/lists\.md .* -o pretrained_model=imagenet"):
        network_with(tmp_path / "nowhere.pth")


def test_a_file_of_two_encoders_is_refused(backbone_weights, tmp_path):
    both = called(backbone_weights, {}, "module.encoder_q.") | called(backbone_weights, {}, "module.encoder_k.")
    torch.save({"state_dict": both}, tmp_path / "moco.pth")
    with pytest.raises(UserError, match=r"moco\.pth: contains several networks \(encoder_k\., encoder_q\.\); save"):
        network_with(tmp_path / "moco.pth")


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_custom_encoder_is_found_by_its_first_tensor(prefix, tmp_path, monkeypatch):
    class Own(torch.nn.Sequential):
        channels, strides = (4, 4), (4, 16)

        def __init__(self):
            super().__init__(torch.nn.Conv2d(3, 4, 3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 4, 4))

    monkeypatch.setitem(ENCODERS, "own", Encoder(lambda tensors: Own()))
    weights = Own().state_dict()
    torch.save({"state_dict": called(weights, {}, prefix) | {"head.weight": torch.ones(1)}}, tmp_path / "own.pth")
    state = torch.random.get_rng_state()
    tensors, report = read_encoder_weights("own", str(tmp_path / "own.pth"))
    assert torch.equal(torch.random.get_rng_state(), state), "the networks that follow draw other weights"
    assert tensors.keys() == weights.keys() and (prefix in report)
