"""A batch in parts (`C.accumulate`): the same gradients, figures and hard pixels as in one piece.

The norms of these networks look at one image alone, and the labels have no ignored pixels, so that parts and whole
agree in exact arithmetic.
"""

from collections.abc import Callable

import pytest
import torch

from furnace.datasets.dataset import TrainBatch
from furnace.engine.learner import Learner
from furnace.methods.build import build_criterion
from furnace.methods.supervised import Supervised
from furnace.utils.config import Config
from tests.engine.processes import GroupNormNetwork

K, BATCH, SIDE = 21, 4, 32


def labeled_batch(same: bool) -> TrainBatch:
    """Float64 noise without ignored pixels; the `same` image in every place, or others."""
    rng = torch.Generator().manual_seed(3)
    images = torch.randn((BATCH, 3, SIDE, SIDE), generator=rng, dtype=torch.float64)
    labels = torch.randint(0, K, (BATCH, SIDE, SIDE), generator=rng)
    if same:
        images, labels = images[:1].expand_as(images), labels[:1].expand_as(labels)
    return TrainBatch(images.contiguous(), labels.contiguous())


def one_step(C: Config, batch: TrainBatch) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Scalars and gradients of the first step."""
    torch.manual_seed(0)
    network = GroupNormNetwork(K).double()
    method = Supervised(build_criterion(C).double())
    learner = Learner(
        network,
        method,
        lr=0.1,
        lr_power=0.9,
        momentum=0.9,
        weight_decay=0,
        total_iterations=9,
        accumulate=C.accumulate,
    )
    outcome = learner.step(batch, 0)
    assert outcome.loss.item() == outcome.scalars["loss"].item()
    gradients = [p.grad for p in network.branches[0].parameters()]
    return {name: value.item() for name, value in outcome.scalars.items()}, gradients


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("ohem", [False, True])
def test_parts_and_whole_have_the_same_figures_and_gradients(
    make_settings: Callable[..., Config], parts: int, ohem: bool
):
    # With the same image in every place the hardest pixels of a part are those of the whole.
    settings = {"batch_size": BATCH, "ohem": ohem, "ohem_thresh": 0.0, "ohem_min_kept": SIDE * SIDE // 8}
    batch = labeled_batch(same=ohem)
    figures, gradients = one_step(make_settings(**settings), batch)
    cut_figures, cut_gradients = one_step(make_settings(**settings, accumulate=parts), batch)
    assert cut_figures == pytest.approx(figures, rel=1e-12)
    for cut, whole in zip(cut_gradients, gradients, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)
