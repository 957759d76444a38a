"""Steps and runs with `C.checkpoint` are bitwise the same as without it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from furnace.checks.estimate import random_batch
from furnace.engine.distributed import CPU
from furnace.engine.learner import Learner
from furnace.engine.trainer import Trainer
from furnace.utils.settings import Settings
from tests.engine.steps import seeded_learner
from tests.engine.test_continuing import assert_same_state, final

SMALL = {"head_channels": 8, "image_height": 32, "image_width": 48, "batch_size": 4, "eval_crop_size": 48}


def seeded(C: Settings, dtype: torch.dtype = torch.float32) -> Learner:
    """A learner with seeded weights that computes in `dtype`."""
    learner = seeded_learner(C, CPU, amp=C.amp)
    learner.network.to(dtype)
    learner.method.to(dtype)
    return learner


def state(learner: Learner) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad for name, p in learner.network.named_parameters() if p.grad is not None}
    return {f"gradient of {name}": value.clone() for name, value in gradients.items()} | {
        name: value.clone() for name, value in learner.network.state_dict().items()
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"backbone": "test_efficientnet"}, torch.float64),
        ({"backbone": "resnet18", "accumulate": 2}, torch.float32),
        ({"backbone": "test_efficientnet", "amp": "bf16", "method": "unimatch"}, torch.float32),
        ({"backbone": "test_efficientnet", "teacher": "ema", "ohem": True}, torch.float32),
        ({"backbone": "test_vit", "method": "unimatch_v2", "optimizer": "adamw", "lr": 1e-3}, torch.float64),
    ],
    ids=lambda value: str(value),
)
def test_steps_are_the_same(make_settings: Callable[..., Settings], changes: dict, dtype: torch.dtype):
    C = make_settings(**SMALL, **{"amp": "off"} | changes)
    plain, other = seeded(C, dtype), seeded(C.updated(checkpoint=True), dtype)
    batch = random_batch(C, CPU, 4, 32, 48).map(lambda one: one.to(dtype) if one.is_floating_point() else one)
    for iteration in range(2):
        expected, found = (learner.step(batch, iteration).scalars for learner in (plain, other))
        assert_same(found, expected)
        assert_same(state(other), state(plain))


def test_a_step_that_is_not_finite_is_undone(make_settings: Callable[..., Settings]):
    learner = seeded(make_settings(**SMALL, backbone="test_efficientnet", checkpoint=True, amp="off"))
    batch = random_batch(make_settings(**SMALL), CPU, 4, 32, 48)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    batch.images[0, 0, 0, 0] = torch.nan
    learner.step(batch, 0)
    assert learner.guard.check()
    assert_same(dict(learner.network.state_dict()), before)


def test_a_run_continues_with_checkpoint(make_settings: Callable[..., Settings], tmp_path: Path):
    def settings(name: str, **changes) -> Settings:
        places = {"log_dir": str(tmp_path / name), "snapshot_dir": str(tmp_path / name / "snapshot")}
        short = {"head_channels": 8, "nepochs": 3, "niters_per_epoch": 1, "snapshot_iter": 1}
        return make_settings(backbone="test_efficientnet", **short, **places, **changes)

    whole, cut = settings("whole"), settings("cut", checkpoint=True)
    Trainer(whole, CPU, console=Console(quiet=True)).fit()
    trainer = Trainer(cut, CPU, str(Path(whole.snapshot_dir) / "epoch-1.pth"), console=Console(quiet=True))
    assert not [note for note in trainer.notes if "checkpoint" in note], "it changes no results, so nobody is warned"
    trainer.fit()
    assert_same_state(final(cut), final(whole))
