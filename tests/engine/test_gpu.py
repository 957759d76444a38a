"""Tests that need a GPU; run them with `pytest -m gpu`, as benchmarks/gpu.sh does."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch._dynamo.utils import counters

from benchmarks.step import Arrangement, allocated, published_step
from furnace.checks import estimate
from furnace.checks.peak import predicted_peak
from furnace.engine.background_compilation import BackgroundCompilation
from furnace.engine.compilation import VARIABLE
from furnace.engine.trainer import Trainer
from furnace.inference.evaluator import Evaluator
from furnace.inference.predictor import Outputs, Predictor
from furnace.methods.method import METHODS
from furnace.seg_opr.metrics import METRICS
from furnace.utils.settings import Settings
from tests.engine.steps import follow_to_the_end, random_batch, seeded_learner

pytestmark = pytest.mark.gpu
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SIZE = {"backbone": "resnet18", "head_channels": 32, "image_height": 65, "image_width": 97, "batch_size": 4}


def test_float32_step_agrees_with_the_cpu(make_settings: Callable[..., Settings]):
    C = make_settings(**SIZE)
    there, here = (seeded_learner(C, device).step(random_batch(C, device), 0) for device in (GPU, CPU))
    for name, value in here.scalars.items():
        assert there.scalars[name].item() == pytest.approx(value.item(), rel=2e-3), name


@pytest.mark.parametrize(
    "options",
    [{"amp": "bf16"}, {"amp": "fp16"}, {"compiled": True}, {"compiled": True, "checkpoint": True}],
    ids=["bf16", "fp16", "compiled", "compiled, recomputed"],
)
def test_fast_steps_are_close_to_float32(make_settings: Callable[..., Settings], options: dict):
    C = make_settings(**SIZE)
    batch = random_batch(C, GPU)
    plain, fast = seeded_learner(C, GPU), seeded_learner(C, GPU, **options)
    torch._dynamo.config.suppress_errors = False  # if compilation failed unnoticed, the losses would be close, too
    losses = [learner.step(batch, 0).scalars["loss"].item() for learner in (fast, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_training_begins_within_ten_seconds_and_goes_on_with_compiled_code(make_settings, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "code"))
    torch.compiler.reset()
    counters.clear()
    C = make_settings(**SIZE)
    begin = time.perf_counter()
    learner, batch = seeded_learner(C, GPU, amp="bf16"), random_batch(C, GPU)
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step(batch, 0)
        torch.cuda.synchronize(GPU)
        assert time.perf_counter() - begin < 10
        follow_to_the_end(compilation)
    learner.step(batch, 1)
    found = counters["aot_autograd"]
    assert found["autograd_cache_hit"] > 1 and not found["autograd_cache_miss"]


def test_steps_replayed_from_cuda_graphs_agree_with_launched_kernels(make_settings: Callable[..., Settings]):
    C = make_settings(**SIZE)
    batch = random_batch(C, GPU)
    plain = seeded_learner(C, GPU, compiled=True)
    expected = [plain.step(batch, i).scalars["loss"].item() for i in range(4)]
    replayed = seeded_learner(C, GPU, compiled=True, graphs=True)
    torch._dynamo.config.suppress_errors = False
    counters.clear()
    found = [replayed.step(batch, i).scalars["loss"].item() for i in range(4)]  # warm-up, recording, two replays
    assert found == pytest.approx(expected, rel=1e-3)
    assert not counters["inductor"]["cudagraph_skips"]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_agree_with_the_cpu_and_do_not_synchronise(name: str):
    rng = torch.Generator().manual_seed(0)
    labels, prediction = (torch.randint(0, 21, (513, 511), generator=rng) for _ in range(2))
    labels[:, ::3] = 255
    labels[:200], prediction[:190] = 3, 3
    here, there = METRICS[name](21, CPU), METRICS[name](21, GPU)
    here.update(labels, prediction)
    on_gpu = labels.to(GPU), prediction.to(GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.update(*on_gpu)
        there.compute()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.state.cpu(), here.state)


@pytest.mark.parametrize(
    "changes",
    [{"checkpoint": True}, {"feature_dropout": 0.5}, *({"method": name} for name in METHODS.all())],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_no_synchronisation_within_a_step(make_settings: Callable[..., Settings], changes: dict):
    C = make_settings(**SIZE, **changes)
    learner, batch = seeded_learner(C, GPU, amp="bf16"), estimate.random_batch(C, GPU, 4, 65, 97)
    learner.step(batch, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step(batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_peak_memory_is_well_below_that_of_the_published_arrangement(make_settings: Callable[..., Settings]):
    C = make_settings(backbone="resnet50", head_channels=256, image_height=512, image_width=512, batch_size=4)
    batch = random_batch(C, GPU)
    held = allocated(GPU)
    published = Arrangement(published_step(C, GPU), batch, GPU, held)
    held = allocated(GPU)
    learner = seeded_learner(C, GPU, amp="bf16")
    ours = Arrangement(lambda part: learner.step(part, 0), batch, GPU, held)
    assert published.parts == ours.parts == 1
    # Weights, gradients and momentum are the same in both; the rest is less than half.
    assert ours.peak <= 0.6 * published.peak


@pytest.mark.parametrize("checkpoint", [False, True])
def test_memory_is_predicted(make_settings: Callable[..., Settings], checkpoint: bool):
    size = {"head_channels": 256, "image_height": 512, "image_width": 512, "batch_size": 4}
    C = make_settings(backbone="resnet50", amp="bf16", checkpoint=checkpoint, **size)
    held = torch.cuda.memory_allocated(GPU)
    learner, batch = seeded_learner(C, GPU, amp="bf16"), random_batch(C, GPU)
    learner.step(batch, 0)  # the search for fast algorithms takes more memory than the algorithms
    torch.cuda.reset_peak_memory_stats(GPU)
    learner.step(batch, 1)
    assert predicted_peak(C, GPU) == pytest.approx(torch.cuda.max_memory_allocated(GPU) - held, rel=0.15)


def test_a_run_from_a_cpu_continues_on_a_gpu(make_settings: Callable[..., Settings], tmp_path: Path):
    folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
    C = make_settings(**SIZE, **folders, compile="off")
    Trainer(C, CPU, console=Console(quiet=True)).fit()
    C = C.updated(nepochs=3)
    trainer = Trainer(C, GPU, "auto", console=Console(quiet=True))
    assert trainer.start_iteration == 6
    trainer.fit()
    (result,) = Evaluator(C, GPU, console=Console(quiet=True)).run("last")
    assert result.values["confusion"].sum() > 0 and result.epoch == 2
    picture = next((tmp_path / "DATA").rglob("val/image/*.png"))
    Predictor(C, GPU, "both", Outputs(tmp_path / "out"), Console(quiet=True)).run("last", [str(picture)])
    assert (tmp_path / "out" / "label" / picture.name).is_file()
