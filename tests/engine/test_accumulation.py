"""A batch in parts (`C.accumulate`): the same gradients, losses and hard pixels as in one piece.

The norms of these networks use each image alone, and the labels have no ignored pixels; therefore, parts and whole
agree in exact arithmetic.
"""

from collections.abc import Callable

import pytest
import torch

from furnace.datasets.batch import TrainBatch
from furnace.engine.learner import Learner
from furnace.methods.build import build_criterion
from furnace.methods.supervised import Supervised
from furnace.utils.settings import Settings
from tests.engine.processes import GroupNormNetwork

K, BATCH, SIDE = 21, 4, 32


def labeled_batch(same: bool) -> TrainBatch:
    """Float64 noise without ignored pixels; if `same`, all images are equal."""
    rng = torch.Generator().manual_seed(3)
    images = torch.randn((BATCH, 3, SIDE, SIDE), generator=rng, dtype=torch.float64)
    labels = torch.randint(0, K, (BATCH, SIDE, SIDE), generator=rng)
    if same:
        images, labels = images[:1].expand_as(images), labels[:1].expand_as(labels)
    return TrainBatch(images.contiguous(), labels.contiguous())


def one_step(C: Settings, batch: TrainBatch) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Scalars and gradients of the first step."""
    torch.manual_seed(0)
    network = GroupNormNetwork(K).double()
    method = Supervised(build_criterion(C).double())
    learner = Learner(
        network,
        method,
        total_iterations=9,
        lr=0.1,
        accumulate=C.accumulate,
    )
    scalars = learner.step(batch, 0).scalars
    gradients = [p.grad for p in network.branches[0].parameters()]
    return {name: value.item() for name, value in scalars.items()}, gradients


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("ohem", [False, True])
def test_parts_and_whole_have_the_same_scalars_and_gradients(
    make_settings: Callable[..., Settings], parts: int, ohem: bool
):
    # If all images are equal, the hardest pixels of a part are those of the whole batch.
    settings = {"batch_size": BATCH, "ohem": ohem, "ohem_thresh": 0.0, "ohem_min_kept": SIDE * SIDE // 8}
    batch = labeled_batch(same=ohem)
    scalars, gradients = one_step(make_settings(**settings), batch)
    cut_scalars, cut_gradients = one_step(make_settings(**settings, accumulate=parts), batch)
    assert cut_scalars == pytest.approx(scalars, rel=1e-12)
    for cut, whole in zip(cut_gradients, gradients, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)
