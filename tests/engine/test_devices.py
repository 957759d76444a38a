"""Device strings, one process for each device, and the device of a process."""

import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace import cli
from furnace.engine import devices
from furnace.engine.devices import MPS, OURS, choose_devices, parse_devices
from furnace.engine.distributed import CPU
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("text", "indices"),
    [("0", [0]), ("cuda", [0]), ("0,2", [0, 2]), ("0-3", [0, 1, 2, 3]), ("*", [0, 1, 2, 3]), ("1-2,0", [1, 2, 0])],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, text: str, indices: list[int]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [device.index for device in parse_devices(text)] == indices


@pytest.mark.parametrize("text", ["4", "0-9", "1,1", "2-1", "x", "", "0,", "-1", "cuda:", "mps", "0-", "٣"])
def test_wrong_devices(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="-d"):
        parse_devices(text)


@given(st.text(max_size=12))
def test_any_text_is_devices_or_one_clear_error(text: str):
    try:
        assert parse_devices(text)
    except UserError as error:
        assert str(error).startswith("-d ")


def test_numbers_of_gpus_are_within_the_visible_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError, match=r"no GPU 2; available: 0 to 1 \(numbered within CUDA_VISIBLE_DEVICES=2,3\)"):
        parse_devices("2,3")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parse_devices(None) == parse_devices("cpu") == [CPU]
    with pytest.raises(UserError, match="-d cpu"):
        parse_devices("*")


def test_an_apple_gpu_is_chosen_if_available(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert parse_devices(None) == parse_devices("mps") == [MPS]
    assert parse_devices("cpu") == [CPU]


def test_several_devices_start_a_process_each(monkeypatch: pytest.MonkeyPatch):
    started = []

    def run_processes(*arguments) -> int:
        started.append(arguments)
        return 3

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setenv(OURS, "")  # launch() sets it; this restores it after the test
    monkeypatch.setattr(devices, "run_processes", run_processes)
    monkeypatch.setattr(devices.sys, "argv", ["train.py", "-d", "0,2"])
    with pytest.raises(SystemExit) as end:
        devices.launch([torch.device("cuda", 0), torch.device("cuda", 2)], restarts=1)
    assert end.value.code == 3
    assert started == [(2, ["train.py", "-d", "0,2"], 1)]
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == "3,7"
    assert devices.os.environ[OURS]


def test_a_launched_process_uses_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch):
    current = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(OURS, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(cli.engine, "start", lambda device: None)
    args = cli.experiment_parser("", "").parse_args(["-d", "2-3"])
    with cli.prepared(REPOSITORY / "exp_toy", args) as (_, device):
        assert device == torch.device("cuda", 1)
    assert current == [device]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with (
        pytest.raises(UserError, match="started process 3 for 2 GPUs"),
        cli.prepared(REPOSITORY / "exp_toy", args),
    ):
        pass


def test_devices_under_the_user_s_torchrun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv(OURS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices(None) == [torch.device("cuda", 0)]
    assert choose_devices("CPU") == [CPU]
    with pytest.raises(UserError, match=r"^-d 0-1: torchrun gives .* CUDA_VISIBLE_DEVICES$"):
        choose_devices("0-1")


FAULTS = """
import resource, torch
from furnace.engine.devices import keep_freed_memory
from furnace.engine.distributed import CPU
if {keep}:
    keep_freed_memory(CPU)
def step():
    for _ in range(6):
        torch.ones(2**25)  # 128 MiB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_process_on_a_cpu_keeps_the_memory_that_it_frees():
    default, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    )
    assert default >= 6 * 64  # pages of at most 2 MiB
    assert kept < default / 2  # the heap may still grow
