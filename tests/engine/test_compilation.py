"""Compilation of networks, and the folder of the compiled code."""

import os
import sysconfig
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch._inductor.utils import python_subprocess_env

from furnace.engine.compilation import VARIABLE, chosen_compile, code_folder, compile_networks, prepare_compiler
from furnace.engine.trainer import Trainer
from furnace.utils import progress
from tests.engine.steps import random_batch, seeded_learner

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary home folder; the variables are restored after the test."""
    for name, value in {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", VARIABLE: ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("furnace.engine.compilation.compile_or_run_eagerly", lambda: None)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "device", "chosen"),
    [
        ("auto", GPU, "background"),
        ("auto", CPU, "off"),
        ("auto", torch.device("mps"), "off"),
        ("background", CPU, "background"),
        ("on", CPU, "on"),
        ("reduce-overhead", GPU, "reduce-overhead"),
        ("off", GPU, "off"),
    ],
)
def test_chosen_compile(make_settings, setting: str, device: torch.device, chosen: str):
    assert chosen_compile(make_settings(compile=setting), device) == chosen


def test_networks_whose_batchnorm_is_synchronised_are_compiled_on_request_only(make_settings, monkeypatch):
    monkeypatch.setattr("furnace.engine.compilation.world_size", lambda: 2)
    assert chosen_compile(make_settings(compile="auto", sync_bn=True), GPU) == "off"
    assert chosen_compile(make_settings(compile="auto", sync_bn=False), GPU) == "background"
    assert chosen_compile(make_settings(compile="on", sync_bn=True), GPU) == "on"


def test_code_is_stored_in_the_user_s_cache_or_a_chosen_folder(home: Path, monkeypatch: pytest.MonkeyPatch):
    assert code_folder() == home / ".cache" / "cpcl" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # relative paths are ignored, as the XDG standard says
    assert code_folder() == home / ".cache" / "cpcl" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert code_folder() == home / "elsewhere" / "cpcl" / "compiled"
    assert code_folder().is_dir()
    monkeypatch.setenv(VARIABLE, str(home / "mine"))
    assert code_folder() == home / "mine"
    compile_networks([])
    assert os.environ[VARIABLE] == str(home / "mine")


def test_a_home_that_cannot_be_written_leaves_the_choice_to_pytorch(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert code_folder() is None
    monkeypatch.delenv(VARIABLE)
    compile_networks([])
    assert VARIABLE not in os.environ


def test_the_compiler_s_processes_find_python_s_modules_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUSTOM_PYTHONPATH", "")  # removed again after the test
    monkeypatch.delenv("TORCH_CUSTOM_PYTHONPATH")
    prepare_compiler()
    path = python_subprocess_env()["PYTHONPATH"].split(os.pathsep)
    beside_torch = str(Path(torch.__file__).parents[1])
    assert path.index(sysconfig.get_path("stdlib")) < path.index(beside_torch)


@pytest.mark.parametrize(("graphs", "mode"), [(False, None), (True, "reduce-overhead")])
def test_networks_are_compiled_in_the_mode_of_the_setting(home: Path, monkeypatch, graphs: bool, mode: str | None):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append((self, options)))
    networks = [nn.Linear(1, 1), nn.ReLU()]
    compile_networks(networks, graphs)
    assert asked == [(network, {"mode": mode}) for network in networks]
    assert os.environ[VARIABLE] == str(home / ".cache" / "cpcl" / "compiled")


@pytest.mark.parametrize(("setting", "marks"), [("on", 0), ("reduce-overhead", 1)])
def test_steps_of_cuda_graphs_are_marked_once_before_the_first_pass(make_settings, monkeypatch, setting, marks):
    C = make_settings(head_channels=8, compile=setting)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    learner, events = seeded_learner(C, CPU, compiled=True), []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: events.append("mark"))
    learner.network.branch1.register_forward_pre_hook(lambda *_: events.append("pass"))
    for iteration in range(2):
        learner.step(random_batch(C, CPU), iteration)
        assert events[:marks] == ["mark"] * marks and "mark" not in events[marks:] and "pass" in events
        events.clear()


def test_table_and_bar_say_that_the_first_iteration_compiles(home: Path, make_settings, monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    bars, shown = [], StringIO()

    class Bar(progress.ProgressBar):
        def __init__(self, description: str, *others, **options):
            bars.append(description)
            super().__init__(description, *others, **options)

    monkeypatch.setattr("furnace.engine.monitor.ProgressBar", Bar)
    for setting in ("on", "off"):
        run = {"nepochs": 1, "niters_per_epoch": 1, "method": "supervised", "log_dir": str(home / "log")}
        C = make_settings(head_channels=8, compile=setting, **run)
        Trainer(C, CPU, overwrite=True, console=Console(file=shown, width=400)).fit()
        assert (str(home / ".cache" / "cpcl" / "compiled") in shown.getvalue()) == (setting == "on")
        shown.truncate(0)
    assert bars == ["compiling", "epoch 0"]
