"""Estimated time of a run: batches like the loader's, extrapolation by pixels, samples from files and a cache."""

import os
from pathlib import Path

import pytest
import torch

from furnace.checks import estimate
from furnace.checks.estimate import random_batch, random_learner, sample_seconds, step_seconds, timed_step
from furnace.datasets.loaders import build_train_loader, build_train_set
from furnace.methods.build import build_data, described_method
from furnace.methods.settings import load_config
from tests.conftest import REPOSITORY
from tests.datasets.batches import FIELDS

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "method, cutmix", [("cpcl", True), ("cpcl", False), ("supervised", True), ("unimatch", True), ("unimatch_v2", True)]
)
def test_random_batches_have_the_streams_of_real_ones(make_settings, method, cutmix):
    C = make_settings(method=method, cutmix=cutmix)
    needs = described_method(C)
    real = next(iter(build_train_loader(C, build_data(C))))
    made = random_batch(C, CPU, C.batch_size, C.image_height, C.image_width)
    for name in (*FIELDS, "valid_0", "valid_1"):
        expected, found = getattr(real, name), getattr(made, name)
        assert (found is None) == (expected is None), name
        assert found is None or found.shape == expected.shape, name
    assert len(made.students_0) == max(len(needs.students), 1)


def test_a_step_is_timed_a_few_times_at_most(make_settings, monkeypatch):
    C = make_settings(head_channels=8)
    learner, steps = random_learner(C, CPU, 1), []
    step = learner.step
    monkeypatch.setattr(learner, "step", lambda *arguments: steps.append(1) or step(*arguments))
    batch = random_batch(C, CPU, 2, 16, 16)
    for seconds, expected in ((600, 1 + estimate.STEPS), (0, 2)):
        monkeypatch.setattr(estimate, "STEPS_SECONDS", seconds)
        steps.clear()
        assert timed_step(learner, batch) > 0
        assert len(steps) == expected


@pytest.mark.parametrize("batch_size, height, width", [(2, 512, 384), (3, 16, 20)])
def test_time_on_a_cpu_is_extrapolated_by_pixels(make_settings, monkeypatch, batch_size, height, width):
    C = make_settings(head_channels=8, batch_size=batch_size, image_height=height, image_width=width)
    monkeypatch.setattr(estimate, "timed_step", lambda _, batch: 2 + 1e-6 * batch.labels.numel())
    assert step_seconds(C, CPU) == pytest.approx(2 + 1e-6 * batch_size * height * width)


def test_samples_are_timed_from_files_and_from_a_temporary_cache(make_settings, tmp_path):
    for C in (make_settings(), make_settings(cache=str(tmp_path / "cache"))):
        assert 0 < sample_seconds(C, build_train_set(C)) < 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("cores, workers, shared_by", [(4, 2, 2), (4, 16, 4), (4, 0, 1), (None, 3, 1)])
def test_loading_time_is_divided_by_the_workers_that_have_a_core(make_settings, monkeypatch, cores, workers, shared_by):
    C = make_settings(num_workers=workers, batch_size=8)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # some systems lack it
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(estimate, "sample_seconds", lambda *_: 1.0)
    monkeypatch.setattr(estimate, "step_seconds", lambda *_: 3.0)
    found = estimate.estimate(C, None, CPU)
    iteration = 3 + 8 / shared_by
    assert found.seconds == pytest.approx(C.nepochs * C.niters_per_epoch * iteration)


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("exp_*/config_*.py")), ids=lambda file: file.parent.name)
def test_a_step_of_every_other_config(file: Path) -> None:
    small = {"pretrained_model": "none", "image_height": "56", "image_width": "56", "eval_crop_size": "56"}
    C = load_config(file, {**small, "batch_size": "2"})
    scalars = random_learner(C, CPU, 1).step(random_batch(C, CPU, 2, 56, 56), 0).scalars
    assert {"sup_1", "sup_2", "inter", "union"} <= scalars.keys()
    assert all(value.isfinite() for value in scalars.values())
