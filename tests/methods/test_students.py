"""Settings of all methods with teachers, against plain formulas: teachers, views, dropout, counted pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.datasets.randomness import Draws
from furnace.methods.build import build_method, build_network
from furnace.methods.feature_dropout import channel_factors, complementary, plain
from furnace.methods.unlabeled import mean_counted
from furnace.utils.errors import UserError
from tests.methods.test_methods import (
    SIZE,
    WEIGHT,
    B,
    K,
    check,
    make_batch,
    make_network,
    mixed,
    naive_targets,
    plain_loss,
    study,
    supervised,
    teach,
)

DRAWS = Draws(seed=3, iteration=5)


def with_views(batch: TrainBatch, count: int) -> TrainBatch:
    """The batch with strong views of both streams, maps of valid pixels, and draws."""
    rng = torch.Generator().manual_seed(11)
    views = [
        tuple(torch.randn(B, 3, *SIZE, generator=rng, dtype=torch.float64) for _ in range(count)) for _ in range(2)
    ]
    valid = [torch.ones(B, 1, *SIZE, dtype=torch.uint8) for _ in range(2)]
    valid[0][0, :, :4] = 0
    valid[1][1, :, :, 15:] = 0
    second = {} if batch.unlabeled_1 is None else {"students_1": views[1], "valid_1": valid[1]}
    return replace(batch, students_0=views[0], valid_0=valid[0], draws=DRAWS, **second)


def naive_ema_cps(network: Network, batch: TrainBatch) -> Tensor:
    for branch in (network.branch3, network.branch4):
        branch.eval()
    (labels_1, _), (labels_2, _) = teach(network, batch, 3), teach(network, batch, 4)
    crossed = plain_loss(study(network, batch, 1), labels_2) + plain_loss(study(network, batch, 2), labels_1)
    return supervised(network, batch, 1) + supervised(network, batch, 2) + WEIGHT * crossed


def test_networks_learn_from_the_averages_of_each_other(make_method) -> None:
    check(make_method(method="cps", teacher="ema"), naive_ema_cps, make_batch())


def naive_cps_of_views(network: Network, batch: TrainBatch, dropout: float = 0) -> Tensor:
    (labels_1, _), (labels_2, _) = teach(network, batch, 1), teach(network, batch, 2)
    loss = supervised(network, batch, 1) + supervised(network, batch, 2)
    for branch, labels in ((1, labels_2), (2, labels_1)):
        for view in (0, 1):
            images = mixed(batch.students_0[view], batch.students_1[view], batch.mask)
            logits = full_logits_dropped(network, images, branch, view, dropout)
            loss = loss + WEIGHT / 2 * plain_loss(logits, labels)
    return loss


def full_logits_dropped(network: Network, images: Tensor, branch: int, view: int, share: float) -> Tensor:
    """Logits of every pixel; the encoder's maps are multiplied by the factors of each image."""
    part = network.get_submodule(f"branch{branch}")
    maps = part.backbone(images)
    if share:
        sides = np.cumsum([0, *part.backbone.channels])
        rows = [complementary(DRAWS, branch, i, part.backbone.channels, share)[view] for i in range(len(images))]
        factors = torch.from_numpy(np.stack(rows))[:, :, None, None]
        maps = [m * factors[:, a:b] for m, a, b in zip(maps, sides, sides[1:], strict=False)]
    logits = part.classifier(part.head(tuple(maps)))
    return torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("dropout", [0, 0.5])
def test_two_views_share_the_weight_and_the_channels(make_method, dropout: float) -> None:
    method = make_method(method="cps", student_views=2, strong=True, feature_dropout=dropout)
    assert method.students == ("strong", "strong")
    check(method, naive_cps_of_views, with_views(make_batch(), 2), dropout=dropout)


def naive_threshold(network: Network, batch: TrainBatch, threshold: float, padding: bool) -> Tensor:
    network.branch2.eval()
    labels, confidence = teach(network, batch, 2)
    counted = mixed(batch.valid_0, batch.valid_1, batch.mask)[:, 0].numpy() if padding else np.ones(labels.shape)
    weights = counted * (confidence >= threshold)
    mean = plain_loss(study(network, batch, 1), labels, weights)  # over all pixels
    return supervised(network, batch, 1) + WEIGHT * mean * labels.size / counted.sum()


@pytest.mark.parametrize(("threshold", "padding"), [(0.5, False), (0, True), (0.5, True)])
def test_pixels_of_low_confidence_and_padding_do_not_count(make_method, threshold: float, padding: bool) -> None:
    method = make_method(method="mean_teacher", confidence_threshold=threshold, ignore_padding=padding)
    assert method.needs_valid == padding
    batch = replace(with_views(make_batch(), 1), students_0=(), students_1=())
    check(method, naive_threshold, batch, threshold=threshold, padding=padding)


def naive_padded_cpcl(network: Network, batch: TrainBatch) -> Tensor:
    counted = mixed(batch.valid_0, batch.valid_1, batch.mask)[:, 0].numpy() > 0
    targets = naive_targets(network, batch, counted=counted)
    loss = supervised(network, batch, 1) + supervised(network, batch, 2)
    for branch, target in enumerate(("intersection", "union"), 1):
        labels, weights = targets[target]
        mean = plain_loss(study(network, batch, branch), labels, weights * counted)  # over all pixels
        loss = loss + WEIGHT * mean * counted.size / counted.sum()
    return loss


def test_padding_does_not_count_in_the_disagreement(make_method) -> None:
    batch = replace(with_views(make_batch(), 1), students_0=(), students_1=())
    check(make_method(ignore_padding=True), naive_padded_cpcl, batch)


def test_shares_are_those_of_the_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    values, counted = rng.random((2, 5, 6)), rng.random((2, 5, 6)) < 0.6
    found = mean_counted(torch.from_numpy(values), torch.from_numpy(counted))
    assert found.item() == pytest.approx(values[counted].mean(), rel=1e-6)
    assert mean_counted(torch.from_numpy(values), None).item() == pytest.approx(values.mean(), rel=1e-6)
    assert mean_counted(torch.from_numpy(values), torch.zeros(2, 5, 6, dtype=torch.bool)) == 0


def test_plain_dropout_keeps_the_mean_and_depends_on_the_image() -> None:
    draws = Draws(1, 2)
    rows = np.stack([plain(draws, 1, index, (3000, 1000), 0.3) for index in range(6)])
    assert set(np.unique(rows)) == {0, 1 / 0.7}
    np.testing.assert_allclose(rows.mean(1), 1, atol=0.05)
    again = np.stack([plain(draws.part(index), 1, 0, (3000, 1000), 0.3) for index in range(6)])
    np.testing.assert_array_equal(rows, again)
    others = [plain(draws, 2, 0, (4000,), 0.3), plain(Draws(1, 3), 1, 0, (4000,), 0.3), rows[1]]
    assert all((rows[0] != other).any() for other in others)


def test_complementary_dropout_splits_the_channels_of_half_of_the_images() -> None:
    rows = np.stack([complementary(DRAWS, 1, index, (200, 100), 0.5) for index in range(16)])
    untouched = (rows == 1).all((1, 2))
    assert untouched.reshape(8, 2).sum(1).tolist() == [1] * 8
    assert 0 < untouched[::2].sum() < 8, "a coin decides which of two"
    assert set(np.unique(rows[~untouched])) == {0, 2} and (rows.sum(1) == 2).all()
    parts = [complementary(DRAWS.part(first), 1, index, (200, 100), 0.5) for first in (0, 3, 5) for index in range(2)]
    np.testing.assert_array_equal(parts, rows[[0, 1, 3, 4, 5, 6]])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_complementary_dropout_keeps_the_mean(share: float) -> None:
    rows = np.stack([complementary(DRAWS, 1, index, (3000,), share) for index in range(16)])
    touched = rows[(rows != 1).any((1, 2))]
    assert ((touched == 0).sum(1) == 1).all(), "each channel is in one of the views"
    np.testing.assert_allclose((touched == 0).mean((0, 2)), [share, 1 - share], atol=0.02)
    np.testing.assert_allclose(touched.mean((0, 2)), 1, atol=0.05)


def test_maps_of_one_width_lose_the_same_channels() -> None:
    factors = np.stack([complementary(DRAWS, 1, index, (200, 200, 200), 0.5) for index in range(4)])
    maps = np.split(factors, 3, axis=2)
    assert (maps[0] == maps[1]).all() and (maps[0] == maps[2]).all() and set(np.unique(factors)) == {0, 1, 2}


def test_factors_fit_the_maps_of_the_encoder() -> None:
    network, batch = make_network(1), with_views(make_batch(), 1)
    assert channel_factors(network, batch, 1, 0) is None
    factors = channel_factors(network, batch, 1, 0.5)
    maps = network.branch1.backbone(batch.images)
    assert [f.shape for f in factors] == [(B, m.shape[1], 1, 1) for m in maps]
    assert all(factor.is_contiguous() for factor in factors), "compiled code is for these strides"
    expected = plain(DRAWS, 1, 1, network.branch1.backbone.channels, 0.5)
    np.testing.assert_array_equal(torch.cat(factors, 1)[1, :, 0, 0], expected)


@pytest.mark.parametrize(
    ("method", "averaged", "reported"),
    [("cpcl", {3: 1, 4: 2}, "3"), ("mean_teacher", {2: 1}, "2"), ("unimatch_v2", {2: 1}, "2")],
)
def test_averages_begin_as_copies_and_leave_the_networks_unchanged(
    make_settings, method: str, averaged, reported
) -> None:
    C = make_settings(method=method, teacher="ema", head_channels=8, num_classes=K)
    torch.manual_seed(1)
    network = build_network(C)
    found = build_method(C)
    assert (found.averaged, found.reported, found.branch_count) == (averaged, reported, len(network.branches))
    for teacher, student in averaged.items():
        pair = network.branches[teacher - 1].parameters(), network.branches[student - 1].parameters()
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    if method == "cpcl":
        torch.manual_seed(1)
        alone = build_network(C.updated(teacher="self"))
        assert all(torch.equal(network.state_dict()[name], value) for name, value in alone.state_dict().items())


def test_with_two_encoders_each_average_has_that_of_its_network(make_settings) -> None:
    C = make_settings(teacher="ema", backbone="resnet18,resnet34", head_channels=8)
    blocks = [len(branch.backbone.layer1) for branch in build_network(C).branches]
    assert blocks == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"method": "supervised", "strong": True}, "strong = True, method = supervised"),
        ({"method": "supervised", "feature_dropout": 0.5}, "feature_dropout = 0.5, method = supervised"),
        ({"method": "supervised", "teacher": "ema"}, "teacher = ema, method = supervised"),
        ({"method": "mean_teacher", "teacher": "self"}, "teacher = self, method = mean_teacher"),
        ({"method": "fixmatch", "student_views": 2}, "student_views = 2, method = fixmatch"),
        ({"method": "unimatch_v2", "cutmix": False}, "cutmix = False, method = unimatch_v2"),
        ({"student_views": 2}, "student_views = 2: two views would be the same"),
    ],
)
def test_settings_that_a_method_does_not_support_are_one_line(make_settings, changes: dict, names: str) -> None:
    with pytest.raises(UserError, match=names) as error:
        make_settings(**changes)
    assert "\n" not in str(error.value)


def test_a_method_has_its_published_settings_unless_config_py_sets_others(make_settings) -> None:
    assert (make_settings(method="unimatch").confidence_threshold, make_settings().confidence_threshold) == (0.95, 0)
    C = make_settings(method="unimatch", confidence_threshold=0)
    assert (C.confidence_threshold, C.student_views, C.strong, C.feature_dropout) == (0, 2, True, 0.5)
    assert make_settings(method="unimatch_v2").ema_decay == 0.996
