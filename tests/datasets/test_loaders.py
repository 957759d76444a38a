"""Loaders: the same batches for any number of workers and processes, and after a start in the middle of a run."""

import os
import traceback
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.batch import TrainBatch
from furnace.datasets.loaders import (
    BatchPositions,
    build_eval_loader,
    build_mask_generator,
    build_train_loader,
    build_train_set,
    worker_count,
)
from furnace.datasets.splits import read_list
from furnace.utils.errors import USER_ERROR_STATUS, UserError, run
from tests.datasets.batches import FIELDS, all_batches, assert_same_batches
from tests.tiny_data import PALETTE


@pytest.fixture
def whole_run(make_settings) -> list[TrainBatch]:
    """The six batches of a tiny run, loaded in this process."""
    return all_batches(make_settings())


def test_batches_of_a_run_follow_from_the_settings_and_the_seed(make_settings, whole_run):
    assert len(whole_run) == 2 * 3
    for batch in whole_run:
        assert batch.images.shape == batch.unlabeled_0.shape == batch.unlabeled_1.shape == (3, 3, 16, 20)
        assert batch.labels.shape == (3, 16, 20)
        assert batch.mask.shape == (3, 1, 16, 20)
    assert len({batch.images.numpy().tobytes() for batch in whole_run}) == 6
    other = all_batches(make_settings(seed=8))
    assert all((a.images != b.images).any() for a, b in zip(other, whole_run, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("start, num_workers", [(0, 1), (0, 3), (1, 0), (4, 2)])
def test_batches_do_not_depend_on_workers_or_on_a_restart(make_settings, whole_run, start, num_workers):
    rest = all_batches(make_settings(num_workers=num_workers), start_iteration=start)
    assert_same_batches(rest, whole_run[start:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_all_processes_together_are_the_batches(make_settings, whole_run, world_size):
    C = make_settings()
    shares = [all_batches(C, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [
        TrainBatch(**{name: torch.cat([getattr(share, name) for share in parts]) for name in FIELDS})
        for parts in zip(*shares, strict=True)
    ]
    assert_same_batches(together, whole_run)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), st.integers(0, 30), st.integers(1, 4))
def test_positions_cover_the_rest_of_the_run_once_and_in_order(batch_size, niters_per_epoch, nepochs, start, processes):
    expected = [
        [(epoch, position) for position in range(step * batch_size, (step + 1) * batch_size)]
        for epoch in range(nepochs)
        for step in range(niters_per_epoch)
    ][start:]
    samplers = [
        BatchPositions(batch_size, niters_per_epoch, nepochs, start, rank, processes) for rank in range(processes)
    ]
    shares = [list(sampler) for sampler in samplers]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == expected
    assert [len(sampler) for sampler in samplers] == [len(expected)] * processes
    sizes = {len(share) for shares_of_rank in shares for share in shares_of_rank}
    assert sizes <= {batch_size // processes, -(-batch_size // processes)}


def test_labelled_images_alone_need_no_unlabelled_list(make_settings, voc_root):
    (voc_root / "subset_train_aug/train_aug_unlabeled_1-8.txt").unlink()
    C = make_settings()
    batch = next(iter(build_train_loader(C, build_train_set(C, unlabeled=False))))
    assert batch.unlabeled_0 is None
    with pytest.raises(UserError, match=r"train_aug_unlabeled_1-8\.txt: no such list"):
        build_train_set(C)


def test_a_folder_of_images_is_a_source_of_unlabelled_images(make_settings, voc_root):
    dataset = build_train_set(make_settings(unsup_source=str(voc_root / "val" / "image")))
    assert [sample.name for sample in dataset.unlabeled] == ["2009_000000", "2009_000001", "2009_000002"]


def test_a_list_shorter_than_a_batch_is_repeated(make_settings):
    C = make_settings(batch_size=6)
    one = Path(C.train_source).with_name("one.txt")
    one.write_text(Path(C.train_source).read_text().split()[0])
    C = C.updated(train_source=str(one))
    dataset = build_train_set(C)
    assert {dataset.sample(0, position, 0).name for position in range(6)} == {one.read_text()}
    batch = next(iter(build_train_loader(C, dataset)))
    assert len(batch.images) == len(batch.unlabeled_0) == 6


def test_missing_list_and_missing_folder_are_named(make_settings, voc_root):
    with pytest.raises(UserError, match=r"nowhere\.txt: no such list"):
        build_train_set(make_settings(train_source=str(voc_root / "nowhere.txt")))
    with pytest.raises(UserError, match=r"elsewhere/image: no such folder"):
        build_train_set(make_settings(train_folder="elsewhere"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_a_worker_ends_a_command_with_one_line(make_settings, voc_root, num_workers, capsys):
    for path in (voc_root / "train_aug" / "image").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(SystemExit) as end:
        run(lambda: all_batches(make_settings(num_workers=num_workers)))
    # The traceback keeps the loader's iterator alive: clear it to end the workers now, garbage collection takes 10 s.
    traceback.clear_frames(end.value.__context__.__traceback__)
    assert end.value.code == USER_ERROR_STATUS
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {voc_root}/train_aug/image/2007_")
    assert line.endswith("can't be decoded; the file is damaged or not an image")


def test_padding_has_the_rounded_mean_colour(make_settings):
    C = make_settings(image_mean=[0.5, 0.25, 0.1], image_height=60, image_width=60, train_scale_array=[1])
    sample = build_train_set(C)[0, 0]
    assert sample["images"][0, 0].tolist() == [128, 64, 26]
    assert sample["labels"][0, 0] == 255


@pytest.mark.parametrize(
    "setting, value, field, expected",
    [
        ("cutmix_mask_prop_range", [0.1, 0.2], "prop_range", (0.1, 0.2)),
        ("cutmix_boxmask_n_boxes", 5, "n_boxes", 5),
        ("cutmix_boxmask_fixed_aspect_ratio", True, "random_aspect_ratio", False),
        ("cutmix_boxmask_by_size", True, "prop_by_area", False),
        ("cutmix_boxmask_outside_bounds", True, "within_bounds", False),
        ("cutmix_boxmask_no_invert", True, "invert", False),
    ],
)
def test_mask_settings_are_passed_to_the_generator(make_settings, setting, value, field, expected):
    default, changed = build_mask_generator(make_settings()), build_mask_generator(make_settings(**{setting: value}))
    differing = {name for name in vars(default) if getattr(default, name) != getattr(changed, name)}
    assert differing == {field}
    assert getattr(changed, field) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_images_come_in_the_order_of_the_list_at_full_size(make_settings, num_workers):
    C = make_settings(num_workers=num_workers)
    items = list(build_eval_loader(C, read_list(C.eval_source, C.dataset_path, C.eval_folder)))
    assert [name for name, _, _ in items] == ["2009_000000", "2009_000001", "2009_000002"]
    assert len({image.shape for _, image, _ in items}) > 1
    for _, image, label in items:
        np.testing.assert_array_equal(np.asarray(image), PALETTE[np.asarray(label)])


@pytest.mark.parametrize(
    ("asked", "processes", "cores", "workers"), [(4, 1, 2, 2), (4, 1, 8, 4), (4, 4, 8, 2), (4, 8, 2, 1), (0, 1, 2, 0)]
)
def test_there_are_no_more_workers_than_cores(asked: int, processes: int, cores: int, workers: int, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert worker_count(asked, processes) == workers
