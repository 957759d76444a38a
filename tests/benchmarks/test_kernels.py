"""The kernel benchmark: counts, order, and times whose sum is less than the total time."""

import time

import pytest
import torch

from benchmarks import kernels
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


def test_operators_are_counted_and_timed_per_step():
    matrix = torch.randn(400, 400)

    def step() -> None:
        for _ in range(20):
            matrix @ matrix

    begin = time.perf_counter()
    found = kernels.kernel_seconds(step, CPU, 3)
    wall = time.perf_counter() - begin
    assert next(iter(found)) == "aten::mm"
    assert found["aten::mm"][1] == 20
    assert list(found.values()) == sorted(found.values(), key=lambda kernel: -kernel[0])
    assert 0 < 3 * sum(seconds for seconds, _ in found.values()) < wall
    assert kernels.step_seconds(lambda: time.sleep(0.05), CPU, 2) >= 0.05


def test_benchmark_runs_small_on_a_cpu(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "WARM_UP", 0)
    overrides = ["image_height=32", "image_width=32", "batch_size=2", "head_channels=8", "backbone=test_resnet"]
    options = [word for override in overrides for word in ("-o", override)]
    kernels.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", "--repeats", "1", "--kernels", "2", *options])
    output = capsys.readouterr().out
    assert "x its kernels" in output and "calls" in output
