"""CPCL steps with the 150 classes of exp_ade20k and the 81 of exp_coco: losses by formula, and the largest tensor."""

import math

import pytest
import torch

from furnace.datasets.catalog import CATALOG, find_classes
from furnace.methods.settings import load_config
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY, TINY_RUN
from tests.engine.steps import random_batch, seeded_learner
from tests.largest import Largest

CPU = torch.device("cpu")
EXPERIMENTS = {"exp_ade20k": 150, "exp_coco": 81}


def load(experiment: str, **changes) -> Settings:
    settings = {"backbone": "resnet18", "pretrained_model": None, "head_channels": 8, "batch_size": 2, **changes}
    return load_config(REPOSITORY / experiment, {name: str(value) for name, value in settings.items()})


@pytest.mark.parametrize("experiment, count", EXPERIMENTS.items())
def test_classes_are_those_of_the_catalog(experiment, count):
    C = load(experiment)
    assert C.num_classes == count
    assert find_classes(C.dataset_name, C.num_classes) is CATALOG[C.dataset_name]


@pytest.mark.parametrize("experiment, count", EXPERIMENTS.items())
def test_uniform_predictions_have_the_losses_of_the_formula(experiment, count):
    C = load(experiment, image_height=TINY_RUN["image_height"], image_width=TINY_RUN["image_width"])
    learner = seeded_learner(C, CPU)
    for branch in learner.network.branches:
        for parameter in branch.classifier.parameters():
            torch.nn.init.zeros_(parameter)
    scalars = learner.step(random_batch(C, CPU), 0).scalars
    supervised = math.log(count)  # loss of uniform predictions; the pseudo labels have confidence 1 / count
    assert scalars["sup_1"].item() == pytest.approx(supervised, rel=1e-5)
    assert scalars["sup_2"].item() == pytest.approx(supervised, rel=1e-5)
    assert scalars["inter"].item() == pytest.approx(supervised / count, rel=1e-5)
    assert scalars["union"].item() == pytest.approx(supervised / count, rel=1e-5)
    assert scalars["overlap"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("experiment, count", EXPERIMENTS.items())
def test_no_tensor_of_a_full_size_step_is_as_large_as_one_image_s_scores(experiment, count):
    C = load(experiment)
    learner, batch = seeded_learner(C, CPU), random_batch(C, CPU)
    with Largest() as largest:
        output = learner.step(batch, 0)
    assert all(math.isfinite(value) for value in output.scalars.values())
    assert largest.elements < count * C.image_height * C.image_width
