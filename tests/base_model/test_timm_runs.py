"""Runs with encoders of timm, from the first step to an exported file."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.inference.evaluator import Evaluator
from furnace.inference.exporter import Exporter, Form
from furnace.inference.segmenter import load_segmenter
from furnace.utils.settings import Settings


@pytest.fixture
def run(make_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., None]:
    """`run(name=value)` trains for four epochs, repeats the last two, evaluates, predicts and exports."""

    def train(resume: str | None, **changes) -> Settings:
        places = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        small = {"nepochs": 4, "niters_per_epoch": 1, "snapshot_iter": 1, "head_channels": 8, **places}
        trainer = Trainer(make_settings(**{**small, **changes}), CPU, resume, console=Console(quiet=True))
        trainer.fit()
        return trainer.C

    def whole(**changes) -> None:
        C = train(None, **changes)
        folder = Path(C.snapshot_dir)
        first = torch.load(folder / "epoch-last.pth", weights_only=True)["model"]
        train(str(folder / "epoch-1.pth"), **changes)
        again = torch.load(folder / "epoch-last.pth", weights_only=True)["model"]
        assert all(torch.equal(value, again[name]) for name, value in first.items())

        console = Console(file=StringIO())
        Evaluator(C, CPU, console=console).run("last")
        assert "mIoU" in console.file.getvalue()
        image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
        assert load_segmenter(folder / "epoch-last.pth", "cpu")(image).shape == (33, 47)
        path = Exporter(C, "1", Form("torchscript", labels=True), console).run("last")
        side = C.eval_crop_size
        assert torch.jit.load(path)(torch.zeros(2, 3, side, side)).shape == (2, side, side)

    return whole


@pytest.mark.parametrize("changes", [{"decoder": "dpt"}, {"backbone": "test_vit,test_resnet", "eval_crop_size": 32}])
def test_a_small_vit(run: Callable, changes: dict):
    run(**{"backbone": "test_vit", "image_height": 32, "image_width": 48, "eval_crop_size": 48, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "side"), [("vit_small_patch14_dinov2", 56), ("vit_small_patch16_dinov3", 64), ("convnext_atto", 56)]
)
def test_a_usual_encoder(run: Callable, backbone: str, side: int):
    run(backbone=backbone, image_height=side, image_width=side, eval_crop_size=side)
