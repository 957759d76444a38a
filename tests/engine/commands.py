"""Run `train.py` as a user does, for tests with real processes and signals."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from furnace.datasets.toy import make_toy
from furnace.engine.snapshot_folder import AUTOSAVE
from tests.conftest import REPOSITORY

HANG_SECONDS = 240


class Command:
    """`train.py` of the toy experiment with a tiny data set, started as a user does."""

    def __init__(self, folder: Path):
        self.folder, self.log_dir = folder, folder / "log"
        make_toy(folder / "DATA" / "toy", 0, {"train": 24, "val": 4}, (3,))

    def settings(self, **settings) -> dict:
        defaults = {
            "volna": str(self.folder), "log_dir": str(self.log_dir), "labeled_ratio": 3, "method": "supervised",
            "nepochs": 2, "niters_per_epoch": 20, "batch_size": 4, "image_height": 32, "image_width": 32,
            "backbone": "test_resnet", "head_channels": 8, "num_workers": 1, "display_iter": 1, "record_info_iter": 1,
            "autosave_minutes": 1e-9,
        }  # fmt: skip
        return {**defaults, **settings}

    def arguments(self, **settings) -> list[str]:
        pairs = [f"{name}={value}" for name, value in self.settings(**settings).items()]
        return [
            str(REPOSITORY / "exp_toy" / "train.py"),
            "-d",
            "cpu",
            *(part for pair in pairs for part in ("-o", pair)),
        ]

    def start(self, *command: str, **variables: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
        self.output = open(self.folder / "output.txt", "w+", encoding="utf-8")  # noqa: SIM115
        return subprocess.Popen(
            [sys.executable, *command], stdout=self.output, stderr=self.output, env=environment, start_new_session=True
        )

    def said(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def wait_for(self, process: subprocess.Popen, text: str, count: int = 1) -> None:
        end = time.monotonic() + HANG_SECONDS
        while self.said().count(text) < count:
            assert process.poll() is None, self.said()
            assert time.monotonic() < end, f"hangs: {self.said()}"
            time.sleep(0.02)

    def saved_iteration(self) -> int:
        return torch.load(self.log_dir / "snapshot" / AUTOSAVE, weights_only=True)["iteration"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
