"""Compilation in another process while training begins without compiled code."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn
from torch._dynamo.utils import counters

from furnace.checks.estimate import random_batch
from furnace.engine import background_compilation as module
from furnace.engine.background_compilation import BackgroundCompilation, without_memory
from furnace.engine.compilation import VARIABLE, compile_networks
from furnace.engine.learner import Learner
from furnace.engine.numerics import autocast, set_precision
from furnace.engine.trainer import Trainer
from furnace.utils.settings import Settings
from tests.engine.steps import follow_to_the_end, seeded_learner

CPU = torch.device("cpu")
capabilities = torch.cpu.get_capabilities


class OneLayer(nn.Conv2d):
    """A layer with code of its own: PyTorch 2.11 does not compile a layer of its own that is alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)


class Networks(nn.Module):
    """Networks of one layer each, so that they compile in seconds."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(OneLayer(3, 2, 1).to(memory_format=torch.channels_last) for _ in range(2))
        self.branches[1].requires_grad_(False)


class TinyLearner:
    """A stand-in with all that the compilation needs of a learner."""

    def __init__(self):
        self.network, self.device, self.amp = Networks(), CPU, "off"
        self.compiled, self.intact = False, True
        set_precision(self.amp)

    def step(self, side: int = 8) -> None:
        images = torch.zeros(2, 3, side, side).contiguous(memory_format=torch.channels_last)
        with autocast(CPU, self.amp):
            self.network.branches[0](images).sum().backward()
            with torch.no_grad():
                self.network.branches[1].eval()(images)

    def compile(self) -> None:
        self.compiled = True
        compile_networks(self.network.branches)


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder for compiled code, and PyTorch's switches as they were after the test."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities)  # as in the other process
    monkeypatch.setenv(VARIABLE, str(tmp_path / "code"))
    torch.compiler.reset()
    counters.clear()
    kept = torch._functorch.config.force_non_lazy_backward_lowering
    with (
        torch._dynamo.config.patch(suppress_errors=False),
        torch._functorch.config.patch("force_non_lazy_backward_lowering", kept),
    ):
        yield


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the log says, whatever earlier tests have set."""
    monkeypatch.setattr(logging.getLogger("furnace"), "propagate", True)
    caplog.set_level(logging.INFO, "furnace")
    return caplog


def test_the_learner_goes_on_with_code_that_another_process_has_compiled(told: pytest.LogCaptureFixture):
    learner, monitor = TinyLearner(), SimpleNamespace(note="")
    with BackgroundCompilation(learner, monitor, wanted=True) as compilation:
        learner.step()
        learner.step()
        assert len(compilation.passes) == 2 and monitor.note
        compilation.follow()
        assert not learner.compiled  # it starts only now
        follow_to_the_end(compilation)
        found = counters["aot_autograd"]
        assert not found and monitor.note
        learner.step()
        assert found["autograd_cache_hit"] == 2 and not found["autograd_cache_miss"]
        compilation.follow()
        learner.step()
        compilation.follow()
    assert [record.levelname for record in told.records] == ["INFO"] and not monitor.note


def test_code_that_is_not_found_again_is_reported(told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BackgroundCompilation, "_start", lambda self: None)
    monkeypatch.setattr(BackgroundCompilation, "_is_ready", lambda self: True)
    learner = TinyLearner()
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step()
        for _ in range(3):
            compilation.follow()
            learner.step()
        compilation.follow()
    assert [record.levelname for record in told.records] == ["INFO", "WARNING"]
    assert "compiled it again" in told.records[1].message


def test_a_full_gpu_is_left_alone(told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    learner = TinyLearner()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**35))
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step()
        learner.device = torch.device("cuda", 1)
        compilation.follow()
    assert learner.compiled and compilation.process is None and "1.0 GiB are free" in told.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "unimatch"},
        {"accumulate": 2, "amp": "bf16"},
        {"checkpoint": True, "backbone": "test_efficientnet", "image_width": 16},
    ],
)
def test_nothing_is_left_to_compile(make_settings: Callable[..., Settings], changes: dict):
    C = make_settings(**{"head_channels": 8, "batch_size": 4, **changes})
    learner, batch = (
        seeded_learner(C, CPU, amp=changes.get("amp", "off")),
        random_batch(C, CPU, 4, C.image_height, C.image_width),
    )
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step(batch, 0)
        follow_to_the_end(compilation)
    learner.step(batch, 1)
    found = counters["aot_autograd"]
    assert found["autograd_cache_hit"] > 1 and not found["autograd_cache_miss"]
    assert not counters["graph_break"]


def of_networks_with_a_lambda(learner: TinyLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    learner.network.function = lambda: 0


def of_networks_of_another_kind(learner: TinyLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "without_memory", lambda network: nn.ReLU())


def of_a_process_that_takes_too_long(learner: TinyLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_SECONDS", 0)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (of_networks_with_a_lambda, "pickle"),
        (of_networks_of_another_kind, "AttributeError: 'ReLU' object has no attribute 'branches'"),
        (of_a_process_that_takes_too_long, "not ready after 0 minutes"),
    ],
)
def test_after_a_failure_the_learner_compiles_itself(cause: Callable, reason: str, told, monkeypatch):
    learner, monitor = TinyLearner(), SimpleNamespace(note="")
    cause(learner, monkeypatch)
    with BackgroundCompilation(learner, monitor, wanted=True) as compilation:
        learner.step()
        compilation.follow()
        follow_to_the_end(compilation)
        compilation.follow()
    (record,) = told.records
    assert record.levelname == "WARNING" and reason in record.message and not monitor.note


def test_a_killed_process_is_a_failure_too(told: pytest.LogCaptureFixture):
    learner = TinyLearner()
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step()
        compilation.follow()
        compilation.process.kill()
        follow_to_the_end(compilation)
    assert "status -9" in told.text


def test_the_process_ends_with_the_run():
    learner = TinyLearner()
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        learner.step()
        compilation.follow()
        number = compilation.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert not learner.compiled


def test_the_process_ends_after_its_parent(monkeypatch: pytest.MonkeyPatch):
    parents, statuses = [7, 7, 1], []
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    module.end_with(7)
    assert statuses == [1] and not parents


def test_a_step_without_memory_for_eager_code_compiles_at_once(told: pytest.LogCaptureFixture):
    learner = TinyLearner()

    def step(*step: object) -> tuple:
        if not learner.compiled:
            raise torch.OutOfMemoryError
        assert sys.exc_info()[1] is None  # its traceback would keep the tensors of the failed step
        return step

    learner.step = step
    with BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation:
        assert compilation.step("batch", 3) == ("batch", 3)
        learner.compiled = False  # memory runs out later: an error, as without background compilation
        with pytest.raises(torch.OutOfMemoryError):
            compilation.step("batch", 4)
    assert compilation.process is None
    assert [record.levelname for record in told.records] == ["WARNING"] and "memory is too small" in told.text


def test_a_step_without_memory_for_its_update_is_not_repeated(told: pytest.LogCaptureFixture):
    learner = TinyLearner()

    def step(*_: object) -> None:
        learner.intact = False  # some of the weights have changed
        raise torch.OutOfMemoryError

    learner.step = step
    with (
        BackgroundCompilation(learner, SimpleNamespace(note=""), wanted=True) as compilation,
        pytest.raises(torch.OutOfMemoryError),
    ):
        compilation.step("batch", 3)
    assert not learner.compiled and not told.records


def test_copies_without_memory_keep_what_selects_the_code():
    network = Networks()
    copied = without_memory(network)
    for ours, theirs in zip(network.parameters(), copied.parameters(), strict=True):
        assert theirs.is_meta and not ours.is_meta
        assert (theirs.shape, theirs.stride(), theirs.requires_grad) == (ours.shape, ours.stride(), ours.requires_grad)


@pytest.mark.parametrize("setting", ["background", "off"])
def test_a_run_says_that_it_compiles_and_goes_on_with_the_code(make_settings, tmp_path, monkeypatch, setting: str):
    compiled, notes, shown = [], [], StringIO()
    monkeypatch.setattr(BackgroundCompilation, "_start", lambda self: setattr(self, "process", object()))
    monkeypatch.setattr(BackgroundCompilation, "_is_ready", lambda self: notes.append(self.monitor.note) or True)
    monkeypatch.setattr(BackgroundCompilation, "__exit__", lambda *_: None)
    monkeypatch.setattr(Learner, "compile", lambda self: compiled.append(self))
    run = {"nepochs": 1, "niters_per_epoch": 4, "method": "supervised", "log_dir": str(tmp_path / "log")}
    C = make_settings(head_channels=8, compile=setting, **run)
    trainer = Trainer(C, CPU, console=Console(file=shown, width=400))
    assert not compiled
    trainer.fit()
    in_background = setting == "background"
    assert compiled == [trainer.learner] * in_background and notes == [module.NOTE] * in_background
    assert ("in another process" in shown.getvalue()) == in_background
    assert ("the networks are compiled" in shown.getvalue()) == in_background
