"""The meaning of "auto" on each device; mixed precision keeps losses and weights in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from furnace.engine.numerics import (
    GROWTH_STEPS,
    LossScale,
    autocast,
    choose_amp,
    device_name,
    memory_format,
    set_precision,
)
from furnace.utils.settings import Settings
from tests.engine.steps import random_batch, seeded_learner

CPU, GPU, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.mark.parametrize(
    ("setting", "device", "amp"),
    [("auto", MPS, "off"), ("off", GPU, "off"), ("fp16", GPU, "fp16"), ("bf16", CPU, "bf16")],
)
def test_chosen_amp(setting: str, device: torch.device, amp: str):
    assert choose_amp(setting, device, nn.Conv2d(4, 4, 3))[0] == amp


@pytest.mark.parametrize(
    ("native", "capability", "amp"), [(True, (9, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "off")]
)
def test_a_gpu_uses_the_16_bits_that_it_has_units_for(native: bool, capability: tuple[int, int], amp: str, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_amp("auto", GPU, nn.Conv2d(4, 4, 3))[0] == amp


@pytest.mark.parametrize(
    ("unit", "groups", "amp", "reason"),
    [
        ("amx_bf16", 1, "bf16", "this CPU has AMX"),
        ("avx512_bf16", 2, "bf16", "this CPU has AVX512-BF16"),
        ("avx512_bf16", 4, "bf16", "this CPU has AVX512-BF16"),
        ("amx_bf16", 4, "off", "AMX does not speed up depthwise"),
        ("avx2", 1, "off", "does not compute in bfloat16"),
    ],
)
def test_a_cpu_uses_bf16_if_it_is_faster(
    unit: str, groups: int, amp: str, reason: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    found = choose_amp("auto", CPU, nn.Conv2d(4, 4, 3, groups=groups))
    assert found[0] == amp
    assert reason in found[1]


def test_memory_format():
    assert memory_format(GPU) == torch.channels_last
    assert memory_format(CPU) == torch.channels_last
    assert memory_format(MPS) == torch.contiguous_format


def test_reference_numerics_without_amp():
    set_precision("bf16")
    assert torch.get_float32_matmul_precision() == "high"
    set_precision("off")
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_bf16_step_is_close_to_float32_and_keeps_float32_weights(make_settings: Callable[..., Settings]):
    C = make_settings(head_channels=8)
    batch = random_batch(C, CPU)
    losses = {}
    for amp in ("off", "bf16"):
        learner = seeded_learner(C, CPU, amp=amp)
        losses[amp] = learner.step(batch, 0).scalars["loss"]
        assert losses[amp].dtype == torch.float32
        assert {parameter.dtype for parameter in learner.network.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["off"]
    assert losses["bf16"].item() == pytest.approx(losses["off"].item(), rel=0.05)


class Steps:
    """A learner with fp16 on noise; gradients of chosen iterations are not finite."""

    def __init__(self, C: Settings):
        self.learner = seeded_learner(C, CPU, amp="fp16")
        self.learner.scale.scale.fill_(8)  # with the initial scale of a run, noise itself would overflow
        self.batch = random_batch(C, CPU)

    def take(self, iteration: int, bad: str = "") -> None:
        weight = self.learner.network.branch1.classifier.weight
        hook = weight.register_hook(lambda gradient: gradient * float(bad)) if bad else None
        self.learner.step(self.batch, iteration)
        if hook:
            hook.remove()


def test_gradients_that_overflow_lower_the_scale_and_skip_one_update(make_settings: Callable[..., Settings]):
    steps = Steps(make_settings(method="supervised"))
    before = steps.learner.network.branch1.classifier.weight.clone()
    steps.take(0, "inf")
    assert steps.learner.scale.state_dict() == {"scale": 4, "good_steps": 0}
    assert torch.equal(steps.learner.network.branch1.classifier.weight, before)
    steps.take(1)
    assert steps.learner.scale.state_dict() == {"scale": 4, "good_steps": 1}
    assert not torch.equal(steps.learner.network.branch1.classifier.weight, before)
    assert steps.learner.guard.check() == []


def test_gradients_that_no_scale_makes_finite_are_a_fault(make_settings: Callable[..., Settings]):
    steps = Steps(make_settings(method="supervised"))
    for iteration in range(5):
        steps.take(iteration, "nan")
    faults = steps.learner.guard.check()
    assert faults[0].iteration == 3 and faults[0].parts == ("gradients",)
    assert steps.learner.scale.state_dict()["scale"] == 1, "a fault leaves the scale as it was before"


def test_the_scale_grows_after_many_good_steps_and_is_restored():
    scale, yes, no = LossScale(CPU, True), torch.tensor(True), torch.tensor(False)
    for _ in range(GROWTH_STEPS):
        scale.update(no, no)
    assert scale.state_dict() == {"scale": 2.0**17, "good_steps": 0}
    scale.update(yes, yes)
    assert scale.state_dict() == {"scale": 2.0**17, "good_steps": 0}
    other = LossScale(CPU, True)
    other.load_state_dict({"scale": 4.0, "_growth_tracker": 7, "growth_factor": 2.0})  # state of PyTorch's GradScaler
    assert other.state_dict() == {"scale": 4.0, "good_steps": 7}
    assert LossScale(CPU, False).state_dict() == {}


def test_in_bf16_students_learn_from_their_teachers(make_settings: Callable[..., Settings]):
    """The teachers' passes come first and keep no graph; the students' passes build their own."""
    C = make_settings(head_channels=8, unsup_weight=1e3)
    gradients = {}
    for amp in ("off", "bf16"):
        learner = seeded_learner(C, CPU, amp=amp)
        learner.step(random_batch(C, CPU), 0)
        gradients[amp] = learner.network.branch2.classifier.weight.grad.norm().item()
    assert gradients["bf16"] == pytest.approx(gradients["off"], rel=0.5), "some pseudo labels differ"


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("off", torch.float32)])
def test_networks_compute_in_the_requested_type_and_cache_no_weights(amp: str, dtype: torch.dtype):
    layer = torch.nn.Linear(2, 2)
    with autocast(CPU, amp):
        assert layer(torch.ones(1, 2)).dtype == dtype
        assert not torch.is_autocast_cache_enabled()


def test_the_device_is_named_with_its_threads():
    assert device_name(CPU) == "cpu (1 thread)"


def test_convolutions_are_tuned_in_every_precision():
    for amp in ("bf16", "off"):
        torch.backends.cudnn.benchmark = False
        set_precision(amp)
        assert torch.backends.cudnn.benchmark
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_scale_multiplies_losses_and_is_removed_from_gradients():
    loss, gradients = torch.tensor(3.0), [torch.tensor([2.0, 4.0]), torch.tensor(6.0)]
    scale = LossScale(CPU, True)
    assert scale.apply(loss) == 3 * 2**16
    scale.scale.fill_(2)
    scale.unscale(gradients)
    assert [gradient.tolist() for gradient in gradients] == [[1, 2], 3]
    off = LossScale(CPU, False)
    assert off.apply(loss) is loss
    off.unscale(gradients)
    off.update(torch.tensor(True), torch.tensor(False))
    assert [gradient.tolist() for gradient in gradients] == [[1, 2], 3] and off.scale == 1


def test_an_overflow_is_excused_only_if_the_scale_can_become_smaller():
    yes, no = torch.tensor(True), torch.tensor(False)
    scale = LossScale(CPU, True)
    assert scale.excuses(yes) and not scale.excuses(no)
    scale.scale.fill_(2)
    assert scale.excuses(yes)
    scale.scale.fill_(1)
    assert not scale.excuses(yes)
    assert not LossScale(CPU, False).excuses(yes)


def test_an_overflow_halves_the_scale_and_resets_the_count_unless_the_step_is_a_fault():
    scale, yes, no = LossScale(CPU, True), torch.tensor(True), torch.tensor(False)
    scale.update(no, no)
    scale.update(no, no)
    assert scale.state_dict() == {"scale": 2.0**16, "good_steps": 2}
    for overflow in (yes, no):
        scale.update(overflow, yes)
        assert scale.state_dict() == {"scale": 2.0**16, "good_steps": 2}
    scale.update(yes, no)
    assert scale.state_dict() == {"scale": 2.0**15, "good_steps": 0}
    scale.load_state_dict({"scale": 8.0})
    assert scale.state_dict() == {"scale": 8, "good_steps": 0}
    scale.load_state_dict({"scale": 8.0, "good_steps": GROWTH_STEPS - 2})
    scale.update(no, no)
    assert scale.state_dict() == {"scale": 8, "good_steps": GROWTH_STEPS - 1}
    scale.update(no, no)
    assert scale.state_dict() == {"scale": 16, "good_steps": 0}
