"""What "auto" means on each device, and that mixed precision keeps losses and weights in float32."""

from collections.abc import Callable

import pytest
import torch

from furnace.engine.numerics import chosen_amp, chosen_compile, memory_format, set_precision
from furnace.utils.config import Config
from tests.engine.steps import random_batch, seeded_learner

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("setting", "device", "amp"),
    [("auto", GPU, "bf16"), ("auto", CPU, "off"), ("off", GPU, "off"), ("fp16", GPU, "fp16"), ("bf16", CPU, "bf16")],
)
def test_chosen_amp(setting: str, device: torch.device, amp: str):
    assert chosen_amp(setting, device) == amp


@pytest.mark.parametrize(
    ("setting", "device", "compiled"),
    [("auto", GPU, True), ("auto", CPU, False), ("on", CPU, True), ("off", GPU, False)],
)
def test_chosen_compile(setting: str, device: torch.device, compiled: bool):
    assert chosen_compile(setting, device) == compiled


def test_networks_whose_batchnorm_is_synchronised_are_compiled_on_request_only():
    assert not chosen_compile("auto", GPU, synchronised=True)
    assert chosen_compile("on", GPU, synchronised=True)


def test_memory_format():
    assert memory_format(GPU) == torch.channels_last
    assert memory_format(CPU) == torch.contiguous_format


def test_reference_numerics_without_amp():
    set_precision("bf16")
    assert torch.get_float32_matmul_precision() == "high"
    set_precision("off")
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_bf16_step_is_close_to_float32_and_keeps_float32_weights(make_settings: Callable[..., Config]):
    C = make_settings(head_channels=8)
    batch = random_batch(C, CPU)
    losses = {}
    for amp in ("off", "bf16"):
        learner = seeded_learner(C, CPU, amp=amp)
        losses[amp] = learner.step(batch, 0).loss
        assert losses[amp].dtype == torch.float32
        assert {parameter.dtype for parameter in learner.network.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["off"]
    assert losses["bf16"].item() == pytest.approx(losses["off"].item(), rel=0.05)
