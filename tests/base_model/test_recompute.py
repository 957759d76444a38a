"""Encoders with recomputed blocks: the same gradients and buffers, fewer saved tensors."""

from collections import Counter
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from furnace.base_model.encoders import build_encoder
from furnace.base_model.recompute import blocks, recompute_blocks
from furnace.utils.errors import UserError

# Number of blocks per class, and the largest allowed share of saved bytes if they are recomputed.
ENCODERS = {
    "resnet18": ({"BasicBlock": 8}, 0.15),
    "resnet50": ({"Bottleneck": 16}, 0.25),
    "tf_efficientnet_lite0": ({"DepthwiseSeparableConv": 1, "InvertedResidual": 15}, 0.1),
    "regnetx_002": ({"Bottleneck": 11}, 0.5),  # its stages are sequences of a special class
    "convnext_atto": ({"ConvNeXtBlock": 12}, 0.2),
    "vit_tiny_patch16_224": ({"Block": 12}, 0.15),
    "pvt_v2_b0": ({"Block": 8}, 0.15),
}


def passed(encoder: nn.Module, side: int = 64) -> tuple[dict[str, Tensor], int]:
    """Loss, gradients and buffers of a training pass, and bytes saved for the backward pass, without weights."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, side, side, generator=rng, dtype=next(encoder.parameters()).dtype)
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(2)
    encoder.train().zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = sum(one.square().mean() for one in encoder(images))
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **encoder.state_dict()}, sum(kept.values())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", ENCODERS)
def test_recomputation_changes_memory_only(name: str):
    (classes, share), state = ENCODERS[name], build_encoder(name).state_dict()
    side = 224 if name.endswith("224") else 64
    plain, other = build_encoder(name, state), build_encoder(name, state)
    for encoder in (plain, other):
        encoder.load_state_dict(state)
    assert Counter(type(block).__name__ for block in blocks(other)) == classes
    recompute_blocks(other)
    (expected, all_bytes), (found, kept) = passed(plain, side), passed(other, side)
    assert_same(found, expected)
    assert kept <= share * all_bytes


class Noisy(nn.Sequential):
    """A block with all that a second pass could change: dropout, a running average, and a cumulative one."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=None), nn.Dropout(), nn.ReLU(inplace=True), nn.BatchNorm2d(3)
        )


class Chain(nn.Module):
    def __init__(self, *members: nn.Module):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        for member in self.members:
            images = member(images)
        return (images,)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = Noisy(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_and_running_statistics_are_those_of_one_pass(dtype: torch.dtype):
    plain, other = (Chain(Wrapped(), Wrapped()).to(dtype) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    recompute_blocks(other)
    for _ in range(2):
        (expected, _), (found, _) = passed(plain), passed(other)
        assert_same(found, expected)
    assert found["members.0.inner.1.num_batches_tracked"] == 2
    assert [member.calls for member in (*plain.members, *other.members)] == [2, 2, 4, 4]


def test_passes_without_gradients_are_not_recomputed():
    encoder = Chain(Wrapped(), Wrapped())
    recompute_blocks(encoder)
    with torch.no_grad():
        encoder(torch.zeros(2, 3, 4, 4))
    assert [member.calls for member in encoder.members] == [1, 1]
    assert encoder.members[0].inner[1].num_batches_tracked == 1


def test_an_encoder_without_repeated_blocks_is_refused():
    encoder = Chain(Wrapped(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))
    with pytest.raises(UserError, match=r"C\.checkpoint = True: .* no repeated blocks; raise C\.accumulate"):
        recompute_blocks(encoder)


def test_an_encoder_with_a_module_as_stem_is_recomputed():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).relu()

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.blocks(self.stem(images)),)

    plain = Own()
    other = deepcopy(plain)
    recompute_blocks(other)
    assert_same(passed(other)[0], passed(plain)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "test_vit"])
def test_a_compiled_encoder_saves_less_and_has_no_graph_break(name: str):
    """Without the code generator, which takes a minute: recomputation is decided before it runs."""
    state = build_encoder(name).state_dict()
    results = []
    for recompute in (False, True):
        encoder = build_encoder(name, state)
        encoder.load_state_dict(state)
        if recompute:
            recompute_blocks(encoder)
        torch._dynamo.reset()
        encoder.compile(backend="aot_eager", fullgraph=True)
        results.append(passed(encoder, 32))
    (expected, all_bytes), (found, kept) = results
    assert_same(found, expected)
    assert kept < all_bytes / 2
