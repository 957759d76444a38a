"""Every method's loss and gradients against a plain formula over full-resolution logits, pixel by pixel."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from furnace.base_model.network import Network
from furnace.datasets.batch import TrainBatch
from furnace.methods.build import build_method, build_network
from furnace.methods.method import Method, Teaching
from furnace.seg_opr.losses import MeanCrossEntropy
from tests.golden_values import relative_error
from tests.tiny_encoder import TINY

K, B, SIZE, WEIGHT = 4, 2, (20, 24), 1.7
CUTMIX = pytest.mark.parametrize("cutmix", [True, False])


def make_batch(cutmix: bool = True) -> TrainBatch:
    rng = torch.Generator().manual_seed(3)
    images = [torch.randn(B, 3, *SIZE, generator=rng, dtype=torch.float64) for _ in range(3)]
    labels = torch.randint(0, K, (B, *SIZE), generator=rng)
    labels[0, :5] = 255
    mask = torch.zeros(B, 1, *SIZE, dtype=torch.uint8)
    mask[0, :, 3:15, 4:20] = 1
    mask[1, :, 8:, :9] = 1
    return TrainBatch(images[0], labels, images[1], *((images[2], mask) if cutmix else ()))


def make_network(branches: int = 2) -> Network:
    torch.manual_seed(5)
    return Network(K, TINY, head_channels=8, branches=branches).double()


def full_logits(network: Network, images: Tensor, branch: int) -> Tensor:
    """Logits of every pixel, by plain interpolation."""
    quarter = network.get_submodule(f"branch{branch}")(images)
    return F.interpolate(quarter, SIZE, mode="bilinear", align_corners=True)


def plain_loss(
    logits: Tensor, labels: np.ndarray, weights: np.ndarray | None = None, over_valid: bool = False
) -> Tensor:
    """Sum over pixels of weight * -log soft-max of the label, divided by the number of (valid) pixels."""
    log_probability = logits - logits.exp().sum(1, keepdim=True).log()
    one_hot = torch.from_numpy(np.stack([labels == k for k in range(K)], axis=1)).double()
    weights = torch.from_numpy(np.ones(labels.shape) if weights is None else weights)
    total = -(one_hot * log_probability).sum(1).mul(weights).sum()
    return total / ((labels != 255).sum() if over_valid else labels.size)


def teach(network: Network, batch: TrainBatch, branch: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidences (B, H, W) of a teacher whose logits are mixed like the images."""
    with torch.no_grad():
        logits = full_logits(network, batch.unlabeled_0, branch)
        if batch.mask is not None:
            inside = full_logits(network, batch.unlabeled_1, branch)
            mask = batch.mask.double()
            logits = logits * (1 - mask) + inside * mask
    probability = (logits.exp() / logits.exp().sum(1, keepdim=True)).numpy()
    return probability.argmax(1), probability.max(1)


def study(network: Network, batch: TrainBatch, branch: int) -> Tensor:
    """A student's logits for the images, which are mixed if the batch has a mask."""
    return full_logits(network, mixed(batch.unlabeled_0, batch.unlabeled_1, batch.mask), branch)


def mixed(outside: Tensor, inside: Tensor | None, mask: Tensor | None) -> Tensor:
    """CutMix by arithmetic; `outside` alone without a mask."""
    return outside if mask is None else outside * (1 - mask.double()) + inside * mask.double()


def supervised(network: Network, batch: TrainBatch, branch: int) -> Tensor:
    return plain_loss(full_logits(network, batch.images, branch), batch.labels.numpy(), over_valid=True)


def naive_supervised(network: Network, batch: TrainBatch) -> Tensor:
    return supervised(network, batch, 1)


def naive_cps(network: Network, batch: TrainBatch) -> Tensor:
    (labels_1, _), (labels_2, _) = teach(network, batch, 1), teach(network, batch, 2)
    crossed = plain_loss(study(network, batch, 1), labels_2) + plain_loss(study(network, batch, 2), labels_1)
    return supervised(network, batch, 1) + supervised(network, batch, 2) + WEIGHT * crossed


def naive_mean_teacher(network: Network, batch: TrainBatch) -> Tensor:
    network.branch2.eval()
    labels, _ = teach(network, batch, 2)
    return supervised(network, batch, 1) + WEIGHT * plain_loss(study(network, batch, 1), labels)


def naive_targets(
    network: Network, batch: TrainBatch, choice: str = "disagreement", counted: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CPCL's labels and weights for "intersection" and "union", pixel by pixel."""
    (labels_1, sure_1), (labels_2, sure_2) = teach(network, batch, 1), teach(network, batch, 2)
    counts = np.eye(K)
    for at in np.argwhere(np.ones(labels_1.shape) if counted is None else counted):
        counts[labels_1[tuple(at)], labels_2[tuple(at)]] += 1
    apart = np.zeros(K)
    for k in range(K):
        row, column = counts[k].sum(), counts[:, k].sum()
        apart[k] = (column - counts[k, k]) / column + (row - counts[k, k]) / row
    inter, union = np.full(labels_1.shape, 255), np.zeros_like(labels_1)
    weight_inter, weight_union = np.zeros(labels_1.shape), np.zeros(labels_1.shape)
    for at in np.ndindex(labels_1.shape):
        a, b = labels_1[at], labels_2[at]
        if a == b:
            inter[at] = union[at] = a
            weight_inter[at] = weight_union[at] = (sure_1[at] + sure_2[at]) / 2
        else:
            first = sure_1[at] > sure_2[at] if choice == "confidence" else apart[a] > apart[b]
            union[at], weight_union[at] = (a, sure_1[at]) if first else (b, sure_2[at])
    return {"intersection": (inter, weight_inter), "union": (union, weight_union)}


def naive_cpcl(
    network: Network,
    batch: TrainBatch,
    targets: tuple[str, str] = ("intersection", "union"),
    choice: str = "disagreement",
    reweight: bool = True,
) -> Tensor:
    labels = naive_targets(network, batch, choice)
    loss = supervised(network, batch, 1) + supervised(network, batch, 2)
    for branch, target in enumerate(targets, 1):
        wanted, weights = labels[target]
        loss = loss + WEIGHT * plain_loss(study(network, batch, branch), wanted, weights if reweight else None)
    return loss


def check(method: Method, naive, batch: TrainBatch, **options) -> None:
    """Assert that loss and gradients agree with the naive formula, and that nothing else gets a gradient."""
    network = make_network(method.branch_count).train()
    reference = copy.deepcopy(network)
    for branch in [n.branches[number - 1] for n in (network, reference) for number in method.averaged]:
        branch.requires_grad_(False)
    total = 0
    for loss in method.losses(network, batch):
        (loss.weight * loss.value).backward()
        total += loss.weight * loss.value.item()
    expected = naive(reference, batch, **options)
    expected.backward()

    assert total == pytest.approx(expected.item(), rel=1e-9)
    for (name, found), wanted in zip(network.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None), name
        if wanted.grad is not None:
            assert relative_error(found.grad, wanted.grad) < 1e-6, name


def test_supervised(make_method) -> None:
    check(make_method(method="supervised"), naive_supervised, make_batch())


@CUTMIX
def test_cps(make_method, cutmix: bool) -> None:
    check(make_method(method="cps"), naive_cps, make_batch(cutmix))


@CUTMIX
def test_mean_teacher(make_method, cutmix: bool) -> None:
    check(make_method(method="mean_teacher"), naive_mean_teacher, make_batch(cutmix))


@CUTMIX
def test_cpcl(make_method, cutmix: bool) -> None:
    check(make_method(), naive_cpcl, make_batch(cutmix))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"pseudo_labels": "intersection"}, {"targets": ("intersection", "intersection")}),
        ({"pseudo_labels": "union"}, {"targets": ("union", "union")}),
        ({"union_choice": "confidence"}, {"choice": "confidence"}),
        ({"reweight": False}, {"reweight": False}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_ablations_of_cpcl(make_method, settings: dict, options: dict) -> None:
    check(make_method(**settings), naive_cpcl, make_batch(), **options)


@pytest.mark.parametrize(("progress", "targets"), [(0.2, ("intersection",) * 2), (0.3, ("intersection", "union"))])
def test_the_union_is_used_after_a_share_of_the_run(make_method, progress: float, targets: tuple[str, str]) -> None:
    method = make_method(union_after=0.3)
    method.before_step(progress)
    check(method, naive_cpcl, make_batch(), targets=targets)


def test_disagreement_over_a_running_count(make_settings) -> None:
    """In two steps, classes are weighted by the running count: 0.9 of the previous one plus 0.1 of the step's count."""
    C = make_settings(num_classes=K, head_channels=8, disagreement_momentum=0.9)
    network, method = build_network(C).double().train(), build_method(C).to(torch.float64)
    running, weights = np.zeros((K, K)), []
    for batch in (make_batch(), make_batch(cutmix=False)):
        reference = copy.deepcopy(network)
        naive_supervised(reference, batch), supervised(reference, batch, 2)
        counts = np.zeros((K, K))
        labels = [teach(reference, batch, branch)[0].ravel() for branch in (1, 2)]
        np.add.at(counts, tuple(labels), 1)
        running = 0.9 * running + 0.1 * counts
        losses = method.losses(network, batch)
        while True:
            try:
                next(losses)
            except StopIteration as end:
                weights.append(end.value.pseudo.class_weight.numpy())
                break
        np.testing.assert_allclose(network.agreement, running, rtol=1e-6)
        seen = running + np.eye(K)
        apart = (seen.sum(0) - seen.diagonal()) / seen.sum(0) + (seen.sum(1) - seen.diagonal()) / seen.sum(1)
        np.testing.assert_allclose(weights[-1], apart / (apart.sum() + 1e-6), rtol=1e-9)
    assert "agreement" not in build_network(C.updated(disagreement_momentum=0)).state_dict()


def test_warm_up_raises_the_weight_linearly(make_method) -> None:
    method = make_method(method="cps", unsup_warmup=0.4)
    seen = {}
    for progress in (0, 0.1, 0.2, 0.4, 0.9):
        method.before_step(progress)
        seen[progress] = method.unsup_weight
    assert seen == pytest.approx({0: 0, 0.1: WEIGHT / 4, 0.2: WEIGHT / 2, 0.4: WEIGHT, 0.9: WEIGHT})
    method.before_step(0.2)
    weights = {name: weight for name, _, weight in method.losses(make_network(), make_batch())}
    assert weights == {"sup_1": 1, "sup_2": 1, "cross_1": WEIGHT / 2, "cross_2": WEIGHT / 2}


def test_without_warm_up_the_weight_is_full_from_the_first_step(make_method) -> None:
    method = make_method(method="cps")
    method.before_step(0)
    assert method.unsup_weight == WEIGHT


class Noise:
    """Networks whose logits are noise, different for each branch."""

    num_classes, branches = K, [torch.nn.Identity(), torch.nn.Identity()]

    def logits(self, images: Tensor, branch: int = 1, factors: object = None) -> Tensor:
        return torch.randn(B, K, *SIZE, generator=torch.Generator().manual_seed(branch), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "losses", "teachers"),
    [
        ("supervised", ["sup"], []),
        ("mean_teacher", ["sup", "teacher"], [2]),
        ("cps", ["sup_1", "sup_2", "cross_1", "cross_2"], [1, 2]),
        ("cpcl", ["sup_1", "sup_2", "inter", "union"], [1, 2]),
    ],
)
def test_losses_are_logged_by_name_and_teachers_shown(make_method, name: str, losses: list, teachers: list) -> None:
    steps, found = make_method(method=name).losses(Noise(), make_batch()), []
    while True:
        try:
            found.append(next(steps).name)
        except StopIteration as end:
            teaching = end.value or Teaching()
            break
    assert found == losses
    assert list(teaching.predictions) == teachers
    labels = {branch: Noise().logits(None, branch).argmax(1) for branch in teachers}
    for branch in teachers:
        assert torch.equal(teaching.predictions[branch].labels, labels[branch])
    assert (teaching.pseudo is not None) == (name == "cpcl")
    scalars = {name: value.item() for name, value in teaching.scalars.items()}
    if name == "mean_teacher":
        assert scalars == {"confidence": pytest.approx(Noise().logits(None, 2).softmax(1).amax(1).mean().item())}
    elif teachers:
        assert scalars == {"overlap": pytest.approx((labels[1] == labels[2]).double().mean().item(), abs=0.01)}
    else:
        assert scalars == {}


@pytest.mark.parametrize(("method", "networks"), [("supervised", 1), ("mean_teacher", 2), ("cps", 2), ("cpcl", 2)])
def test_networks_of_a_method(make_settings, method: str, networks: int) -> None:
    network = build_network(make_settings(method=method, head_channels=8))
    assert len(network.branches) == networks
    alike = all(
        torch.equal(a, b)
        for a, b in zip(network.branches[0].parameters(), network.branches[-1].parameters(), strict=True)
    )
    # A teacher starts as a copy of its student; networks that teach each other must differ.
    assert alike == (method in ("supervised", "mean_teacher"))


def test_criterion_comes_from_the_settings(make_method) -> None:
    assert isinstance(make_method(method="mean_teacher").criterion, MeanCrossEntropy)
    assert math.isclose(make_method(method="mean_teacher", ema_decay=0.9).settings.ema_decay, 0.9)
