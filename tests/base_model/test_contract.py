"""New encoders and decoders with a slip: one line names it when the network is built."""

import copy

import pytest
import torch
from torch import Tensor, nn

from furnace.base_model.decoders import DECODERS, deeplabv3plus
from furnace.base_model.encoders import ENCODERS, Encoder
from furnace.base_model.network import Network
from furnace.engine.internals import counted_without_memory
from furnace.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("registries")


class Pyramid(nn.Module):
    """Maps of 4 and 8 channels at strides 4 and 16."""

    channels, strides = (4, 8), (4, 16)

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 8, 4, stride=4)
        self.frozen = nn.BatchNorm2d(8).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(images)
        return fine, self.frozen(self.coarse(fine))


def variant(**attributes) -> type[nn.Module]:
    return type("Variant", (Pyramid,), attributes)


def network(entry: Encoder, decoder: str = "deeplabv3plus") -> Network:
    ENCODERS.register("new")(entry)
    return Network(3, "new", decoder=decoder, head_channels=8, branches=2)


def test_an_encoder_that_fits_keeps_its_modes():
    found = network(Encoder(lambda tensors: Pyramid()))
    assert found(torch.zeros(2, 3, 32, 48)).shape == (2, 3, 32, 48)
    norms = [branch.backbone.frozen for branch in found.branches]
    assert found.training and not any(norm.training for norm in norms)
    assert all((norm.running_mean == 0).all() and norm.num_batches_tracked == 0 for norm in norms)


def test_the_check_changes_nothing_and_leaves_out_encoders_of_other_sizes():
    class Keeps(Pyramid):
        kept = None

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            self.kept = self.fine.weight.mean() if self.kept is None else self.kept
            return super().forward(images)

    class Square(Pyramid):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            assert images.shape[-2:] == (96, 96)
            return super().forward(images)

    assert all(branch.backbone.kept is None for branch in network(Encoder(lambda tensors: Keeps())).branches)
    assert network(Encoder(lambda tensors: Square()))(torch.zeros(2, 3, 96, 96)).shape == (2, 3, 96, 96)


def test_networks_without_memory_are_not_copied(monkeypatch):
    """PyTorch 2.11 crashes after such copies."""
    monkeypatch.setattr(copy, "deepcopy", lambda module: pytest.fail("copied"))
    with counted_without_memory():
        found = network(Encoder(lambda tensors: Pyramid()))
    assert len(found.branches) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda tensors: 3, "build returned a int; it must return a module"),
        (lambda tensors: nn.Conv2d(3, 4, 3), "has no channels; give one number per map"),
        (lambda tensors: variant(strides=(4,))(), "has 2 channels and 1 strides"),
        (
            lambda tensors: variant(strides=(2, 8))(),
            "gives 4 channels at stride 4, 8 channels at stride 16, but its channels and strides are 4 at 2, 8 at 8",
        ),
        (lambda tensors: variant(channels=(8, 4))(), "but its channels and strides are 8 at 4, 4 at 16"),
        (lambda tensors: variant(channels=(4, 8, 9), strides=(4, 16, 32))(), "are 4 at 4, 8 at 16, 9 at 32"),
        (lambda tensors: variant(forward=lambda self, images: self.fine(images))(), "forward gives a Tensor; it must"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named(build, message: str):
    with pytest.raises(UserError, match=rf"^encoder 'new': .*{message}"):
        network(Encoder(build))


def test_one_module_for_two_branches_is_refused():
    shared = Pyramid()
    with pytest.raises(UserError, match="encoder 'new': build returned the same module again"):
        network(Encoder(lambda tensors: shared))


def test_an_entry_that_is_no_encoder_is_refused():
    with pytest.raises(UserError, match=r"^encoder 'new': register Encoder\(lambda tensors: \.\.\.\), not <class"):
        ENCODERS.register("new")(Pyramid)
    with pytest.raises(UserError, match=r"encoder 'resnet50': furnace\.base_model\.encoders has registered this name"):
        ENCODERS.register("resnet50")(Encoder(lambda tensors: Pyramid()))


def more_classes(channels, strides, num_classes, width):
    head, _ = deeplabv3plus(channels, strides, num_classes, width)
    return head, nn.Conv2d(width, num_classes + 1, 1)


def head_alone(channels, strides, num_classes, width):
    return deeplabv3plus(channels, strides, num_classes, width)[0]


def pooled(channels, strides, num_classes, width):
    head, _ = deeplabv3plus(channels, strides, num_classes, width)
    return head, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


@pytest.mark.parametrize("encoder", ["mine", "resnet18"])
@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (more_classes, r"gives a Tensor of shape \(1, 4, .*; it must give logits \(B, 3, h, w\), one per class"),
        (head_alone, "returned DeepLabHead; return two modules, head and classifier"),
        (pooled, r"gives a Tensor of shape \(1, 3\); it must give logits"),
    ],
)
def test_a_decoder_that_does_not_fit_is_named(encoder: str, decoder, message: str):
    DECODERS.register("odd")(decoder)
    ENCODERS.register("mine")(Encoder(lambda tensors: Pyramid()))
    with pytest.raises(UserError, match=rf"^decoder 'odd': {message}"):
        Network(3, encoder, decoder="odd", head_channels=8, branches=1)
