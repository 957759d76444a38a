"""Pseudo-label diagnostics against naive counts; withheld labels against their images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX import SummaryWriter
from torch import Tensor

from furnace.datasets.batch import TrainBatch
from furnace.datasets.catalog import CATALOG, voc_palette
from furnace.datasets.dataset import collate
from furnace.datasets.loaders import build_train_set
from furnace.engine.collapse import RECORDS_PER_CHECK, CollapseWatch
from furnace.engine.diagnostics import TILE_HEIGHT, Diagnostics, draw_strip
from furnace.engine.learner import StepOutput, build_learner
from furnace.engine.record import TRUTH
from furnace.engine.traces import STRIPS
from furnace.methods.build import build_network
from furnace.methods.method import Teaching
from furnace.seg_opr.pseudo_label import PseudoLabels, make_pseudo_labels
from furnace.utils import fonts
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.visualize import CAPTION_HEIGHT
from tests.engine.test_monitor import read_events
from tests.tiny_data import NUM_CLASSES, PALETTE, write_palette_label

SIZE = (16, 20)
TILE_WIDTH = TILE_HEIGHT * SIZE[1] // SIZE[0]
COLOURS = np.array([*voc_palette(NUM_CLASSES)] + [(0, 0, 0)] * (255 - NUM_CLASSES) + [PALETTE[255]])


def tile_of(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """Centre of each source pixel in a tile of a strip."""
    top = CAPTION_HEIGHT + row * (TILE_HEIGHT + 4) + 5
    left = column * (TILE_WIDTH + 4) + 5
    return picture[top : top + TILE_HEIGHT : 10, left : left + TILE_WIDTH : 10][: SIZE[0], : SIZE[1]]


DIAGNOSED = {"train_scale_array": [1.0], "diagnose": True, "image_iter": 2, "record_info_iter": 2}


@pytest.fixture
def C(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(log_dir=str(tmp_path / "log"), **DIAGNOSED)


@pytest.fixture
def diagnostics(C: Settings) -> Diagnostics:
    return Diagnostics(C, build_train_set(C))


@pytest.fixture
def writer(C: Settings):
    with SummaryWriter(str(Path(C.log_dir) / "tb")) as writer:
        yield writer


def draw_pseudo(count: int, seed: int = 0) -> PseudoLabels:
    torch.manual_seed(seed)
    first = 3 * torch.randn(count, NUM_CLASSES, *SIZE)
    return make_pseudo_labels(first, torch.where(torch.rand(count, 1, *SIZE) < 0.6, first, first.flip(1)))


def teaching_of(pseudo: PseudoLabels) -> Teaching:
    """The teaching in the form that CPCL returns."""
    return Teaching(dict(enumerate(pseudo.predictions, 1)), pseudo)


def loaded_batch(diagnostics: Diagnostics, iteration: int) -> TrainBatch:
    C = diagnostics.C
    epoch, step = divmod(iteration, C.niters_per_epoch)
    return collate([diagnostics.dataset[epoch, step * C.batch_size + i] for i in range(C.batch_size)])


@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("cutmix", [True, False])
def test_withheld_labels_belong_to_the_mixed_images(C: Settings, cutmix: bool, count: int):
    C = C.updated(cutmix=cutmix)
    diagnostics = Diagnostics(C, build_train_set(C))
    batch = loaded_batch(diagnostics, 4)
    truth = diagnostics.withheld(4, batch, count).numpy()
    mixed = batch.unlabeled_0.numpy()
    if cutmix:
        mixed = np.where(batch.mask.numpy() == 1, batch.unlabeled_1.numpy(), mixed)
    mixed = mixed[-count:].transpose(0, 2, 3, 1)
    known = truth != 255
    # The tiny images show their labels in VOC's colours.
    np.testing.assert_array_equal(PALETTE[truth][known], mixed[known])
    assert known.mean() > 0.3 and len(np.unique(truth)) > 5


def test_metrics_are_naive_counts(C: Settings, diagnostics: Diagnostics, writer: SummaryWriter):
    batch, pseudo = loaded_batch(diagnostics, 3), draw_pseudo(C.batch_size)
    diagnostics.record(3, batch, StepOutput({}, teaching_of(pseudo)), writer)
    writer.close()
    events = read_events(Path(C.log_dir))
    first, second = (teacher.labels.numpy() for teacher in pseudo.predictions)
    assert events[3, "pseudo/intersection_share"] == pytest.approx((first == second).mean())
    assert events[3, "pseudo/confidence_2"] == pytest.approx(pseudo.predictions[1].confidence.mean().item(), rel=1e-5)
    for name, index in (("background", 0), ("person", 15)):
        both = ((first == index) & (second == index)).sum() / ((first == index) | (second == index)).sum()
        assert events[3, f"agreement/{name}"] == pytest.approx(both)
        assert events[3, f"disagreement_weight/{name}"] == pytest.approx(pseudo.class_weight[index].item())

    truth = diagnostics.withheld(3, batch, C.batch_size).numpy()
    (record,) = [json.loads(line) for line in (Path(C.log_dir) / TRUTH).read_text().splitlines()]
    for name, labels in {
        "intersection": np.where(first == second, first, 255),
        "union": pseudo.union.numpy(),
        "branch_1": first,
        "branch_2": second,
    }.items():
        judged = (truth != 255) & (labels != 255)
        assert record[f"{name}_accuracy"] == pytest.approx((labels == truth)[judged].mean())
        assert record[f"{name}_share"] == pytest.approx(judged.sum() / (truth != 255).sum())
        ious = []
        for c, class_name in enumerate(diagnostics.classes.names):
            either = ((labels == c) | (truth == c)) & judged
            if either.any():
                ious.append(((labels == c) & (truth == c) & judged).sum() / either.sum())
                assert record[f"{name}_iou/{class_name}"] == pytest.approx(ious[-1])
            else:
                assert record[f"{name}_iou/{class_name}"] is None
                assert (3, f"truth/{name}_iou/{class_name}") not in events
        assert record[f"{name}_miou"] == pytest.approx(np.mean(ious))
        assert events[3, f"truth/{name}_miou"] == pytest.approx(np.mean(ious))
    assert record["iteration"] == 3
    assert (Path(C.log_dir) / STRIPS / "iteration-000004.png").is_file()
    assert any(tag == "confidence/branch_1" for _, tag in events) and any(tag == "pseudo/strip" for _, tag in events)


def test_strip_shows_the_maps(diagnostics: Diagnostics, C: Settings):
    batch, pseudo = loaded_batch(diagnostics, 1), draw_pseudo(C.batch_size)
    picture = draw_strip(batch, teaching_of(pseudo), diagnostics.classes, pseudo.union)
    assert picture.shape[1] == 9 * TILE_WIDTH + 8 * 4
    first, second = pseudo.predictions
    maps = [first.labels, second.labels, pseudo.intersection, pseudo.union, pseudo.union]
    for row in (0, 1):
        for column, labels in enumerate(maps, 2):
            np.testing.assert_array_equal(tile_of(picture, row, column), COLOURS[labels[row].numpy()])
    # Ignored pixels have weight 0: the darkest colour.
    dark = tile_of(picture, 0, 7).astype(int).sum(2)
    assert dark[(pseudo.intersection[0] == 255).numpy()].max() <= dark.min()


@pytest.mark.parametrize(("method", "teachers"), [("cps", [1, 2]), ("mean_teacher", [2])])
def test_methods_without_cpcls_labels_show_their_teachers(
    make_settings: Callable[..., Settings], C: Settings, writer: SummaryWriter, method: str, teachers: list[int]
):
    C = make_settings(method=method, head_channels=8, log_dir=C.log_dir, **DIAGNOSED)
    diagnostics = Diagnostics(C, build_train_set(C))
    batch = loaded_batch(diagnostics, 3)
    images = {name: getattr(batch, name).float() / 255 for name in ("images", "unlabeled_0", "unlabeled_1")}
    step_batch = TrainBatch(labels=batch.labels.long(), mask=batch.mask, **images)
    output = build_learner(C, build_network(C)).step(step_batch, 0)
    predictions = output.teaching.predictions
    assert list(predictions) == teachers and not any(p.confidence.requires_grad for p in predictions.values())
    diagnostics.record(3, batch, output, writer)
    writer.close()
    picture = np.asarray(Image.open(Path(C.log_dir) / STRIPS / "iteration-000004.png"))
    tiles = 2 + 2 * len(teachers) + 1
    assert picture.shape[1] == tiles * (TILE_WIDTH + 4) - 4
    truth = diagnostics.withheld(3, batch, C.batch_size)
    maps = [*(predictions[branch].labels for branch in teachers), truth]
    for column, labels in enumerate(maps, 2):
        np.testing.assert_array_equal(tile_of(picture, 1, column), COLOURS[labels[1].numpy()])
    (record,) = [json.loads(line) for line in (Path(C.log_dir) / TRUTH).read_text().splitlines()]
    for branch in teachers:
        found = predictions[branch].labels[truth != 255] == truth[truth != 255]
        assert record[f"branch_{branch}_accuracy"] == pytest.approx(found.double().mean().item())
    assert "union_miou" not in record and ("branch_1_miou" in record) == (1 in teachers)
    events = read_events(Path(C.log_dir))
    confidence = predictions[2].confidence.mean().item()
    assert events[3, "pseudo/confidence_2"] == pytest.approx(confidence, rel=1e-5)
    assert ((3, "pseudo/intersection_share") in events) == (len(teachers) == 2)


def test_nothing_is_recorded_between_the_intervals(diagnostics: Diagnostics):
    class Untouchable:
        def __getattr__(self, name: str):
            raise AssertionError(f"{name} was looked at")

    teaching = Teaching({1: Untouchable()}, Untouchable())
    diagnostics.record(0, Untouchable(), StepOutput({}, teaching), Untouchable())
    diagnostics.record(1, Untouchable(), StepOutput({}), Untouchable())


def test_replaced_images_are_not_compared(diagnostics: Diagnostics):
    batch = loaded_batch(diagnostics, 0)
    batch.skipped = ["a.png: damaged"]
    assert diagnostics.withheld(0, batch, 3) is None


@pytest.mark.parametrize("fault", ["size", "value"])
def test_a_withheld_label_that_can_not_be_used_does_not_stop_the_training(diagnostics, fault: str, caplog):
    batch = loaded_batch(diagnostics, 0)
    for sample in diagnostics.dataset.unlabeled:
        label = np.asarray(Image.open(sample.label))
        write_palette_label(sample.label, label[1:] if fault == "size" else np.full_like(label, 99))
    assert diagnostics.withheld(0, batch, 3) is None
    assert "pseudo labels are not compared with withheld labels" in caplog.text


def test_missing_labels_are_named(C: Settings):
    dataset = build_train_set(C)
    dataset.unlabeled[4].label.unlink()
    with pytest.raises(UserError, match=rf"C\.diagnose.*{dataset.unlabeled[4].image.name}"):
        Diagnostics(C, dataset)
    C = C.updated(diagnose=False)
    Diagnostics(C, dataset)


def watch(agreement: Tensor, apart: float, shown: Tensor, checks: int = 1) -> list[str]:
    collapse = CollapseWatch(CATALOG["toy"])
    return [text for _ in range(checks * RECORDS_PER_CHECK) for text in collapse.step(agreement.double(), apart, shown)]


EVEN = torch.full((7,), 10.0, dtype=torch.float64)


def test_a_class_that_replaces_the_others_is_named():
    counts = torch.ones(7, 7)
    counts[:, 3] = 1e6  # branch 2 predicts triangle for all predictions of branch 1
    (warning,) = watch(counts, 0.1, EVEN, checks=3)
    assert "branch 2" in warning and "triangle" in warning and "100.0 %" in warning
    assert watch(counts, 0.1, torch.tensor([1.0, 1, 1, 1e6, 1, 1, 1]).double()) == []
    counts[:, 3] = 30
    assert watch(counts, 0.1, EVEN) == []


def test_networks_that_became_equal_are_reported():
    same = torch.eye(7) * 1000
    (warning,) = watch(same, 0.001, EVEN, checks=2)
    assert "the same network" in warning
    assert watch(same, 0.1, EVEN) == []
    assert watch(same + 1, 0.001, EVEN) == []


@pytest.mark.parametrize("branch", [1, 2])
def test_warnings_name_branch_class_and_shares_after_ten_records(branch: int):
    counts = torch.zeros(7, 7, dtype=torch.float64)
    counts[3, 3], counts[3, 4], counts[4, 4] = 980, 10, 10  # branch 1 says 99 % triangle, branch 2 98 %
    collapse, shown = CollapseWatch(CATALOG["toy"]), torch.tensor([1.0, 1, 0, 8, 0, 0, 0]).double()
    agreement = counts if branch == 1 else counts.T
    said = [collapse.step(agreement, 0.0, shown) for _ in range(RECORDS_PER_CHECK)]
    assert said[:-1] == [[]] * (RECORDS_PER_CHECK - 1)
    assert said[-1] == [
        f"branch {branch} predicts triangle for 99.0 % of the pixels, the labels for 80 %; if this persists, "
        "lower lr or unsup_weight"
    ]


def test_the_share_of_equal_labels_is_reported():
    same = torch.eye(7).double() * 1000
    same[0, 1] = 3.5
    (warning,) = watch(same, 0.009, EVEN)
    assert warning.startswith("the branches agree on 99.95 % of the pixels with the same confidence")
    assert watch(same, 0.011, EVEN) == []


def test_a_warning_is_repeated_after_a_recovery():
    collapse = CollapseWatch(CATALOG["toy"])
    same, apart = torch.eye(7).double() * 1000, torch.ones(7, 7).double()
    said = [
        len(collapse.step(counts, 0.0, EVEN)) for counts in (same, same, apart, same) for _ in range(RECORDS_PER_CHECK)
    ]
    assert [sum(said[i : i + RECORDS_PER_CHECK]) for i in range(0, len(said), RECORDS_PER_CHECK)] == [1, 0, 0, 1]


def test_withheld_labels_are_those_of_the_first_process_s_share(diagnostics: Diagnostics, C: Settings) -> None:
    """In two processes, the first has two images of a batch of four; the last of these two is shown."""
    asked = []
    diagnostics.C = C.updated(batch_size=4)
    diagnostics.dataset.withheld_label = lambda *place: asked.append(place) or np.zeros(SIZE, np.uint8)
    images = torch.zeros(2, 3, *SIZE)
    batch = TrainBatch(images, None, images, images, torch.zeros(2, 1, *SIZE))
    diagnostics.withheld(C.niters_per_epoch + 1, batch, 1)
    assert asked == [(1, 5, 0), (1, 5, 1)]


def test_names_without_a_font_are_reported_once(diagnostics, writer, monkeypatch, caplog):
    monkeypatch.setattr(fonts, "is_drawable", str.isascii)
    names = ["背景", *diagnostics.classes.names[1:]]
    diagnostics.classes = replace(diagnostics.classes, names=tuple(names))
    batch, teaching = loaded_batch(diagnostics, 1), teaching_of(draw_pseudo(2))
    for iteration in (1, 3):
        diagnostics.show(iteration, batch.map(lambda tensor: tensor[:2]), teaching, None, writer)
    assert [record.getMessage() for record in caplog.records if "no font" in record.getMessage()] == [
        fonts.missing_note(names, "the legend of the strips")
    ]
