"""Predicted memory of a step against PyTorch's allocator, and the settings with which a step would fit."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from furnace.checks import peak
from furnace.checks.estimate import random_batch, random_learner
from furnace.checks.peak import predicted_peak, remedies
from furnace.engine.distributed import CPU
from furnace.engine.internals import counted_without_memory
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings

SMALL = {"backbone": "test_efficientnet", "head_channels": 32, "batch_size": 4, "amp": "off"}
LITE = {"backbone": "tf_efficientnet_lite0"}
LARGE = {"image_height": 96, "image_width": 96}  # at this size the graph takes half of the memory


def allocated_peak(C: Settings) -> int:
    """Largest number of bytes allocated during two steps, by the profiler."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        learner = random_learner(C, CPU, C.accumulate)
        batch = random_batch(C, CPU, C.batch_size, C.image_height, C.image_width)
        for iteration in range(2):
            learner.step(batch, iteration)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total, largest = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        largest = max(largest, total)
    return largest


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "cpcl"},
        pytest.param({"method": "cpcl", **LITE}, marks=pytest.mark.slow),
        pytest.param({"method": "cpcl", "checkpoint": True, **LITE}, marks=pytest.mark.slow),
        {"method": "unimatch_v2", "optimizer": "adamw", "lr": 1e-4},
        pytest.param({"method": "mean_teacher", "backbone": "resnet18", "ohem": True}, marks=pytest.mark.slow),
        pytest.param({"method": "unimatch", "backbone": "resnet18", "amp": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"method": "supervised", "backbone": "test_vit", "decoder": "dpt"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_prediction_agrees_with_the_allocator(make_settings: Callable[..., Settings], changes: dict):
    C = make_settings(**SMALL | LARGE | changes)
    assert predicted_peak(C) == pytest.approx(allocated_peak(C), rel=0.15)


def test_the_prediction_for_a_gpu_is_that_of_its_form_of_the_decoder(make_settings: Callable[..., Settings]):
    C = make_settings(**SMALL | LARGE, method="supervised", compile="off")
    assert predicted_peak(C, torch.device("cuda")) > 1.02 * predicted_peak(C)  # a CPU does not join the upsampled map


def test_a_counter_counts_live_tensors_without_allocating_them():
    with counted_without_memory() as counter:
        first = torch.zeros(2**20)
        second = first + 1
        view = second[:10]
        del first, second
        third = torch.zeros(2**40)  # 4 TiB
        del view, third
        torch.zeros(2**10)
    assert counter.peak == 2**42 + 2**22


def test_the_prediction_falls_with_parts_and_recomputed_blocks(make_settings: Callable[..., Settings]):
    C = make_settings(**SMALL | LITE, method="supervised", image_height=256, image_width=256)
    whole, parts, recomputed = (predicted_peak(C.updated(**c)) for c in ({}, {"accumulate": 2}, {"checkpoint": True}))
    assert whole / 2 < parts < 0.65 * whole
    assert recomputed < 0.5 * whole


@pytest.fixture
def by_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict 100 bytes plus one per pixel of a part (1/4 per pixel if blocks are recomputed)."""

    def predict(C: Settings, device: torch.device) -> int:
        if C.checkpoint and C.backbone == "vgg11":
            raise UserError("no blocks")
        return 100 + C.batch_size // C.accumulate * C.image_height * C.image_width // (4 if C.checkpoint else 1)

    monkeypatch.setattr(peak, "predicted_peak", predict)


@pytest.mark.parametrize(
    ("changes", "room", "expected"),
    [
        (
            {},
            20100,
            [
                "-o checkpoint=true (8.1 KiB)",
                "-o accumulate=2 (16.1 KiB)",
                "-o image_height=48 -o image_width=48 (18.1 KiB)",
            ],
        ),
        (
            {},
            8300,
            [
                "-o checkpoint=true (8.1 KiB)",
                "-o accumulate=4 (8.1 KiB)",
                "-o image_height=32 -o image_width=32 (8.1 KiB)",
            ],
        ),
        ({"checkpoint": True, "accumulate": 4}, 1500, ["-o image_height=48 -o image_width=48 (1.2 KiB)"]),
        ({"backbone": "vgg11"}, 8300, ["-o accumulate=4 (8.1 KiB)", "-o image_height=32 -o image_width=32 (8.1 KiB)"]),
        (
            {"image_height": 48, "image_width": 80},
            1000,
            ["-o checkpoint=true -o accumulate=4 -o image_height=32 -o image_width=48 (868 bytes)"],
        ),
        ({}, 100, []),
    ],
)
def test_only_settings_that_fit_are_named(
    make_settings: Callable[..., Settings], by_formula: None, changes: dict, room: int, expected: list[str]
):
    C = make_settings(**{"batch_size": 8, "image_height": 64, "image_width": 64} | changes)
    assert remedies(C, CPU, room) == expected


def test_a_network_that_needs_values_is_not_predicted(make_settings: Callable[..., Settings], monkeypatch):
    monkeypatch.setattr(peak, "build_network", lambda *_, **__: torch.ones(1).nonzero())
    with pytest.raises(UserError, match="can't be computed from shapes alone"):
        predicted_peak(make_settings())
