"""Snapshots of every method: continued, and evaluated with the networks of the method that made them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.inference.segmenter import Segmenter
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_run import NARROW, write_lively

SIDE = 40


@pytest.fixture
def snapshot_of(make_settings: Callable[..., Settings], tmp_path: Path) -> Callable[[str], Path]:
    return lambda method: write_lively(make_settings(method=method, **NARROW), tmp_path / f"{method}.pth")


@pytest.mark.parametrize(("method", "branches", "reported"), [("supervised", 1, "1"), ("mean_teacher", 2, "2")])
def test_the_snapshot_says_which_networks_to_build(
    make_settings: Callable[..., Settings],
    snapshot_of: Callable[[str], Path],
    method: str,
    branches: int,
    reported: str,
) -> None:
    """Though config.py says cpcl; scores are those of the branch that the snapshot's method reports."""
    path = snapshot_of(method)
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, **NARROW), CPU)
    segmenter.load(path)
    assert (len(segmenter.network.branches), segmenter.branch) == (branches, reported)

    state = torch.load(path, weights_only=True)["model"]
    chosen = segmenter.network.get_submodule(f"branch{reported}").state_dict()
    assert all(torch.equal(value, state[f"branch{reported}.{name}"]) for name, value in chosen.items())
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    ((_, scores),) = segmenter.stream([(image, None)])
    inputs = segmenter.to_input(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        torch.testing.assert_close(scores, segmenter.network(inputs, int(reported))[0], rtol=1e-4, atol=1e-4)


def test_a_branch_that_the_method_lacks_is_refused(
    make_settings: Callable[..., Settings], snapshot_of: Callable[[str], Path]
) -> None:
    segmenter = Segmenter(make_settings(eval_crop_size=SIDE, **NARROW), CPU, "2")
    segmenter.load(snapshot_of("cps"))
    with pytest.raises(UserError, match="'supervised' trains one branch only"):
        segmenter.load(snapshot_of("supervised"))


def fit(C: Settings, resume: str | None = None) -> dict:
    Trainer(C, CPU, resume, console=Console(quiet=True)).fit()
    return torch.load(Path(C.snapshot_dir) / "epoch-last.pth", weights_only=True)


def test_mean_teacher_goes_on_from_a_snapshot_as_if_never_stopped(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    def settings(folder: str) -> Settings:
        places = {"log_dir": str(tmp_path / folder), "snapshot_dir": str(tmp_path / folder)}
        return make_settings(method="mean_teacher", snapshot_iter=1, nepochs=3, niters_per_epoch=2, **places, **NARROW)

    whole = fit(settings("whole"))
    assert "optimizer_1" in whole and "optimizer_2" not in whole
    resumed = fit(settings("resumed"), str(tmp_path / "whole" / "epoch-1.pth"))
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
    student, teacher = (whole["model"][f"branch{number}.classifier.weight"] for number in (1, 2))
    assert not torch.equal(student, teacher)


@pytest.mark.parametrize("method", ["supervised", "cps", "mean_teacher", "cpcl"])
def test_every_method_trains_without_cutmix(
    make_settings: Callable[..., Settings], tmp_path: Path, method: str
) -> None:
    places = {"log_dir": str(tmp_path), "snapshot_dir": str(tmp_path)}
    model = fit(make_settings(method=method, cutmix=False, nepochs=1, niters_per_epoch=1, **places, **NARROW))["model"]
    assert all(value.isfinite().all() for value in model.values())
