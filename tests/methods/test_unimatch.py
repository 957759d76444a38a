"""UniMatch V1 and V2 and FixMatch against plain formulas, gradients included, and the boxes that they draw."""

import numpy as np
import pytest
import torch
from torch import Tensor

from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.datasets.cutmix import draw_box
from furnace.datasets.randomness import Draws, Purpose
from furnace.methods.feature_dropout import plain
from tests.methods.test_methods import SIZE, WEIGHT, B, check, full_logits, make_batch, mixed, plain_loss
from tests.methods.test_students import DRAWS, full_logits_dropped, with_views

THRESHOLD = 0.28  # some pixels of the random network reach it in train and eval mode, some do not


def boxes(view: int) -> Tensor:
    """The CutMix masks (B, 1, H, W) of a view."""
    found = [draw_box(SIZE, DRAWS.stream(Purpose.BOX, view, index=index)) for index in range(B)]
    return torch.from_numpy(np.stack(found)).double()[:, None]


def target(logits: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
    """Labels, confidence and valid pixels (B, 1, H, W) float64, from logits of every pixel."""
    probability = logits.detach().exp() / logits.detach().exp().sum(1, keepdim=True)
    return probability.argmax(1, True).double(), probability.amax(1, True), valid.double()


def confident_loss(logits: Tensor, labels: Tensor, confidence: Tensor, valid: Tensor) -> Tensor:
    """Sum of the cross entropy of confident pixels, divided by the number of valid pixels."""
    labels, confidence, valid = (values[:, 0].numpy() for values in (labels, confidence, valid))
    loss = plain_loss(logits, labels, (confidence >= THRESHOLD) * valid)
    return loss * labels.size / valid.sum()


def naive_unimatch(network: Network, batch: TrainBatch, views: int, dropout: float) -> Tensor:
    network.eval()
    partner = None
    if batch.mask is not None:
        partner = target(full_logits(network, batch.unlabeled_1, 1), batch.valid_1)
    network.train()
    logits = full_logits(network, torch.cat([batch.images, batch.unlabeled_0]), 1)
    loss = plain_loss(logits[:B], batch.labels.numpy(), over_valid=True) / 2
    weak = target(logits[B:], batch.valid_0)
    for view in range(views):
        images, wanted = batch.students_0[view], weak
        if partner:
            images = mixed(images, batch.students_1[view], boxes(view))
            wanted = [mixed(own, other, boxes(view)) for own, other in zip(weak, partner, strict=True)]
        part = confident_loss(full_logits(network, images, 1), *wanted)
        loss = loss + WEIGHT / 2 * part / views / (2 if dropout else 1)
    if dropout:
        loss = loss + WEIGHT / 4 * confident_loss(plainly_dropped(network, batch.unlabeled_0, dropout), *weak)
    return loss


def plainly_dropped(network: Network, images: Tensor, share: float) -> Tensor:
    channels = network.branch1.backbone.channels
    rows = np.stack([plain(DRAWS, 1, index, channels, share) for index in range(B)])
    factors = torch.from_numpy(rows)[:, :, None, None].split(tuple(channels), dim=1)
    maps = tuple(m * f for m, f in zip(network.branch1.backbone(images), factors, strict=True))
    logits = network.branch1.classifier(network.branch1.head(maps))
    return torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=True)


def naive_unimatch_v2(network: Network, batch: TrainBatch) -> Tensor:
    loss = plain_loss(full_logits(network, batch.images, 1), batch.labels.numpy(), over_valid=True) / 2
    network.branch2.eval()
    own = target(full_logits(network, batch.unlabeled_0, 2), batch.valid_0)
    for view in (0, 1):
        images = mixed(batch.students_0[view], batch.students_0[view].flip(0), boxes(view))
        wanted = [mixed(values, values.flip(0), boxes(view)) for values in own]
        logits = full_logits_dropped(network, images, 1, view, 0.5)
        loss = loss + WEIGHT / 4 * confident_loss(logits, *wanted)
    return loss


def naive_supervised_strong(network: Network, batch: TrainBatch) -> Tensor:
    images = mixed(batch.images, batch.images.flip(0), boxes(0))
    labels = mixed(batch.labels[:, None].double(), batch.labels.flip(0)[:, None].double(), boxes(0))
    return plain_loss(full_logits(network, images, 1), labels[:, 0].long().numpy(), over_valid=True)


def test_supervised_strong(make_method) -> None:
    batch = with_views(make_batch(), 1)
    check(make_method(method="supervised_strong"), naive_supervised_strong, batch)
    assert boxes(0).any()  # otherwise no image of this batch would be mixed


@pytest.mark.parametrize("cutmix", [True, False])
def test_unimatch(make_method, cutmix: bool) -> None:
    method = make_method(method="unimatch", confidence_threshold=THRESHOLD)
    check(method, naive_unimatch, with_views(make_batch(cutmix), 2), views=2, dropout=0.5)


def test_fixmatch(make_method) -> None:
    method = make_method(method="fixmatch", confidence_threshold=THRESHOLD)
    check(method, naive_unimatch, with_views(make_batch(), 1), views=1, dropout=0)


def test_unimatch_v2(make_method) -> None:
    method = make_method(method="unimatch_v2", confidence_threshold=THRESHOLD)
    check(method, naive_unimatch_v2, with_views(make_batch(cutmix=False), 2))


def test_boxes_are_as_published() -> None:
    masks = np.stack([draw_box((100, 160), np.random.default_rng(seed)) for seed in range(400)])
    drawn = masks[masks.any((1, 2))]
    assert 0.43 < len(drawn) / len(masks) < 0.57
    height, width = drawn.any(2).sum(1), drawn.any(1).sum(1)
    assert (drawn.sum((1, 2)) == height * width).all(), "one box each"
    share, aspect = height * width / (100 * 160), height / width
    assert 0.017 < share.min() < 0.04 and 0.33 < share.max() <= 0.4
    assert 0.28 < aspect.min() < 0.5 and 2.5 < aspect.max() < 3.6
    corners = drawn.any(2).argmax(1), drawn.any(1).argmax(1)
    assert all(corner.min() < 5 < 50 < corner.max() for corner in corners)


def test_areas_of_boxes_are_uniform() -> None:
    shares = [draw_box((300, 300), np.random.default_rng(seed), probability=1).mean() for seed in range(4000)]
    found = np.quantile(shares, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(found, np.interp([0.1, 0.25, 0.5, 0.75, 0.9], [0, 1], [0.02, 0.4]), atol=0.012)


def test_a_box_that_can_not_fit_gives_an_empty_mask() -> None:
    assert not draw_box((1, 5000), np.random.default_rng(0), probability=1).any()


def test_boxes_follow_from_the_seed_and_the_view() -> None:
    def draw(draws: Draws, view: int) -> np.ndarray:
        return draw_box((50, 50), draws.stream(Purpose.BOX, view), probability=1)

    first = draw(DRAWS, 0)
    assert (first == draw(DRAWS, 0)).all()
    assert all((first != draw(*other)).any() for other in ((DRAWS, 1), (Draws(3, 6), 0), (Draws(4, 5), 0)))
