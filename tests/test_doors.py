"""New methods, optimizers, views, encoders and decoders, registered here without a change of any file.

A registered name works in the settings, in training, and when the snapshot is opened by its path alone.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from furnace.base_model.decoders import DECODERS
from furnace.base_model.encoders import ENCODERS, Encoder
from furnace.datasets.views import VIEWS, View
from furnace.engine.distributed import CPU
from furnace.engine.optim import OPTIMIZERS
from furnace.engine.trainer import Trainer
from furnace.inference.segmenter import load_segmenter
from furnace.methods.build import build_network
from furnace.methods.cps import CPS
from furnace.methods.method import METHODS, Loss, SemiSupervised
from furnace.methods.settings import load_config
from furnace.methods.unlabeled import student_images, teacher_predictions
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture
def train(make_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Trainer]:
    """`train(name=value)`: two iterations on the tiny data set."""

    def fit(**changes) -> Trainer:
        places = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        small = {"nepochs": 1, "niters_per_epoch": 2, "head_channels": 8, "eval_crop_size": 40, **places}
        trainer = Trainer(make_settings(**{**small, **changes}), CPU, console=Console(quiet=True))
        trainer.fit()
        return trainer

    return fit


def labels_of(trainer: Trainer) -> np.ndarray:
    """Labels of noise, predicted by the run's snapshot, which is opened by its path alone."""
    segmenter = load_segmenter(Path(trainer.C.snapshot_dir) / "epoch-last.pth", "cpu")
    assert segmenter.C.method == trainer.C.method
    return segmenter(np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8))


def test_a_new_method_with_its_own_setting(train: Callable):
    @METHODS.register("half")
    class Half(SemiSupervised):
        """A network and its average; labels of the right half of the images do not count."""

        trained = (1,)
        averaged = {2: 1}  # noqa: RUF012
        needs_valid = True

        published = {"ema_decay": 0.5}  # noqa: RUF012

        class Settings(SemiSupervised.Settings):
            half_share: float = Field(0.5, description="share of the width that counts", gt=0, le=1)

        def losses(self, networks, batch):
            assert batch.valid_0.shape == batch.mask.shape
            yield Loss("sup", self.criterion(networks.logits(batch.images, 1), batch.labels))
            labels = teacher_predictions(networks, batch, 2).labels
            weight = torch.ones_like(labels, dtype=torch.float32)
            weight[..., int(self.settings.half_share * weight.shape[-1]) :] = 0
            drawn = torch.rand((), generator=batch.draws.generator(labels.device))
            loss = weighted_cross_entropy(networks.logits(student_images(batch), 1), labels, weight)
            yield Loss("half", drawn * loss, self.unsup_weight)

    trainer = train(method="half", half_share=0.25)
    assert (trainer.C.half_share, trainer.learner.method.settings.half_share) == (0.25, 0.25)
    assert trainer.learner.method.settings.ema_decay == 0.5
    assert (len(trainer.learner.optimizers), len(trainer.network.branches)) == (1, 2)
    assert labels_of(trainer).shape == (33, 47)


def test_a_new_optimizer(train: Callable):
    OPTIMIZERS.register("rprop")(lambda groups, lr, momentum, fused: torch.optim.Rprop(groups, lr=lr))
    trainer = train(method="supervised", optimizer="rprop")
    saved = torch.load(Path(trainer.C.snapshot_dir) / "epoch-last.pth", weights_only=True)
    assert "step_size" in saved["optimizer_1"]["state"][0]


def test_a_new_view_for_a_method_s_students(train: Callable):
    seen = []

    def invert(image: Tensor, rng: np.random.Generator) -> Tensor:
        seen.append(rng.random())
        return 1 - image

    @VIEWS.register("inverted")
    def inverted(base: View) -> View:
        return replace(base, photometric=[invert])

    @METHODS.register("inverted")
    class InvertedCPS(CPS):
        strong_view = "inverted"

    trainer = train(method="inverted", strong=True)
    images = 2 * 2 * trainer.C.batch_size  # two streams, two iterations
    assert len(seen) == len(set(seen)) == images


def test_a_new_encoder_and_a_new_decoder(train: Callable):
    class Pyramid(nn.Module):
        channels, strides = (6, 12), (2, 8)

        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(3, 6, 3, stride=2, padding=1)
            self.coarse = nn.Conv2d(6, 12, 5, stride=4, padding=2)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            fine = self.fine(images)
            return fine, self.coarse(fine.relu())

    class Coarsest(nn.Module):
        def __init__(self, channels: int, width: int):
            super().__init__()
            self.conv = nn.Conv2d(channels, width, 1)

        def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
            return self.conv(maps[-1]).relu()

    ENCODERS.register("pyramid")(Encoder(lambda tensors: Pyramid(), mean=(0.5, 0.5, 0.5)))
    DECODERS.register("coarsest")(
        lambda channels, strides, classes, width: (Coarsest(channels[-1], width), nn.Conv2d(width, classes, 1))
    )
    trainer = train(backbone="pyramid,resnet18", decoder="coarsest", head_channels=5, pretrained_model=None)
    assert isinstance(trainer.network.branch1.backbone, Pyramid)
    assert trainer.network.branch1.head.conv.out_channels == 5
    assert labels_of(trainer).shape == (33, 47)
    # If config.py does not set the normalisation, it is that of the encoder.
    assert load_config(REPOSITORY / "exp_toy", {"backbone": "pyramid"}).image_mean == (0.5, 0.5, 0.5)


def test_two_encoders_need_two_trained_networks(make_settings: Callable[..., Settings]):
    with pytest.raises(UserError, match=r"C\.backbone = resnet18,resnet34: method 'supervised' trains 1 network"):
        build_network(make_settings(method="supervised", backbone="resnet18,resnet34"))
