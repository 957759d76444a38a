"""TrainSet and EvalSet: samples that depend on (seed, epoch, position) only; image and label stay aligned."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from furnace.datasets.batch import TrainBatch
from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.dataset import TrainSet, collate
from furnace.datasets.randomness import Purpose
from furnace.datasets.reading import Files, read_image
from furnace.datasets.splits import read_list
from furnace.datasets.views import MirrorScaleCrop, View
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX
from tests.datasets.batches import FIELDS
from tests.tiny_data import NUM_CLASSES, PALETTE, write_image

CROP = (24, 28)
FILL = (1, 2, 3)


@pytest.fixture
def make_train_set(voc_root: Path):
    """`make_train_set(name=value)`: a set of five labelled and seven unlabelled images, without scaling by default."""
    folder = voc_root / "subset_train_aug"
    labeled = read_list(folder / "train_aug_labeled_1-8.txt", voc_root, "train_aug")
    unlabeled = read_list(folder / "train_aug_unlabeled_1-8.txt", voc_root, "train_aug", labeled=False)

    def make(samples=6, scales=(1,), crop=CROP, seed=0, unlabeled=unlabeled) -> TrainSet:
        view = View([MirrorScaleCrop(crop, scales, FILL)])
        given = {"crop": crop, "samples": samples, "files": Files(NUM_CLASSES)}
        return TrainSet(labeled, unlabeled, view=view, seed=seed, masks=BoxMaskGenerator(), **given)

    return make


def all_samples(dataset: TrainSet, epochs: int = 2) -> list[dict[str, np.ndarray]]:
    return [dataset[epoch, position] for epoch in range(epochs) for position in range(len(dataset))]


def test_image_and_label_go_through_the_same_crop(make_train_set):
    padded = mirrored = 0
    dataset = make_train_set(samples=20)
    for position, sample in enumerate(all_samples(dataset, epochs=1)):
        padding = (sample["images"] == FILL).all(2)
        np.testing.assert_array_equal(sample["images"][~padding], PALETTE[sample["labels"][~padding]])
        assert (sample["labels"][padding] == IGNORE_INDEX).all()
        assert (sample["labels"] != IGNORE_INDEX).any()
        padded += padding.any()
        original = read_image(dataset.sample(0, position, Purpose.ORDER_LABELED).image)
        mirrored += not holds_window(original, sample["images"][~padding.all(1)][:, ~padding.all(0)])
    assert padded > 0
    assert 0 < mirrored < 20


def holds_window(image: np.ndarray, window: np.ndarray) -> bool:
    """True if `window` occurs somewhere in `image`."""
    view = np.lib.stride_tricks.sliding_window_view(image, window.shape)
    return bool((view == window).all(axis=(-3, -2, -1)).any())


def test_labelled_images_only(make_train_set):
    with_unlabeled, without = make_train_set(), make_train_set(unlabeled=None)
    sample = without[0, 0]
    assert set(sample) == {"images", "labels"}
    np.testing.assert_array_equal(sample["images"], with_unlabeled[0, 0]["images"])
    batch = collate([sample, without[0, 1]])
    doubled = batch.map(lambda tensor: tensor.long() * 2)
    for made, factor in ((batch, 1), (doubled, 2), (batch.split(2)[0], 1)):
        assert (made.unlabeled_0, made.unlabeled_1, made.mask) == (None, None, None)
        assert torch.equal(made.images[0].long(), batch.images[0].long() * factor)
        assert torch.equal(made.labels[0].long(), batch.labels[0].long() * factor)


def test_samples_depend_on_the_seed_and_not_on_order_or_process(make_train_set):
    dataset = make_train_set(scales=[0.5, 1, 2])
    keys = [(epoch, position) for epoch in range(4) for position in range(6)]
    backwards = {key: dataset[key] for key in reversed(keys)}
    for again in (make_train_set(scales=[0.5, 1, 2]), pickle.loads(pickle.dumps(dataset))):
        np.testing.assert_equal({key: again[key] for key in keys}, backwards)


def test_epochs_positions_and_seeds_differ(make_train_set):
    sets = [make_train_set(scales=[0.5, 1, 1.5, 2], seed=seed) for seed in (0, 1)]
    samples = [sample for dataset in sets for sample in all_samples(dataset)]
    for name in ("images", "unlabeled_0", "unlabeled_1", "mask"):
        different = {sample[name].tobytes() for sample in samples}
        assert len(different) > 0.8 * len(samples), name


def names_of(dataset: TrainSet, epoch: int, purpose: Purpose) -> list[str]:
    return [dataset.sample(epoch, position, purpose).name for position in range(len(dataset))]


@pytest.mark.parametrize("purpose", [Purpose.ORDER_UNLABELED_0, Purpose.ORDER_UNLABELED_1])
def test_every_unlabelled_image_is_reached_although_the_epoch_is_shorter(make_train_set, purpose):
    dataset = make_train_set(samples=3)
    seen = set()
    for epoch in range(40):
        names = names_of(dataset, epoch, purpose)
        assert len(set(names)) == 3
        seen.update(names)
    assert seen == {sample.name for sample in dataset.unlabeled}
    assert len(seen) == 7


def test_the_two_unlabelled_streams_are_shuffled_and_cropped_independently(make_train_set):
    dataset = make_train_set(samples=7)
    streams = [
        [names_of(dataset, epoch, purpose) for epoch in range(5)]
        for purpose in (Purpose.ORDER_UNLABELED_0, Purpose.ORDER_UNLABELED_1)
    ]
    assert all(sorted(first) == sorted(second) for first, second in zip(*streams, strict=True))
    assert all(first != second for first, second in zip(*streams, strict=True))

    alone = make_train_set(unlabeled=dataset.unlabeled[:1], samples=20, crop=(8, 8))
    crops = [(sample["unlabeled_0"] != sample["unlabeled_1"]).any() for sample in all_samples(alone, epochs=1)]
    assert sum(crops) > 10


def test_each_unlabelled_stream_shows_its_own_images(make_train_set):
    dataset = make_train_set(crop=(48, 48), samples=7)
    for position, sample in enumerate(all_samples(dataset, epochs=1)):
        for number, purpose in enumerate((Purpose.ORDER_UNLABELED_0, Purpose.ORDER_UNLABELED_1)):
            shown = sample[f"unlabeled_{number}"]
            padding = (shown == FILL).all(2)
            whole = shown[~padding.all(1)][:, ~padding.all(0)]
            expected = read_image(dataset.sample(0, position, purpose).image)
            assert np.array_equal(whole, expected) or np.array_equal(whole[:, ::-1], expected)


def test_labels_of_unlabelled_images_are_never_read(make_train_set, voc_root):
    for path in (voc_root / "train_aug/label").glob("2008_*.png"):
        path.unlink()
    assert len(all_samples(make_train_set())) == 12
    shutil.rmtree(voc_root / "train_aug/label")
    with pytest.raises(UserError, match=r"label/2007_\d+\.png: no such file"):
        all_samples(make_train_set())


def test_a_faulty_label_stops_the_training_with_its_name(make_train_set, voc_root):
    for path in (voc_root / "train_aug/label").glob("2007_*.png"):
        write_image(path, np.full((3, 4), 77, dtype=np.uint8))
    with pytest.raises(UserError, match=r"label/2007_\d+\.png: label value 77"):
        make_train_set()[0, 0]


def test_collate_stacks_in_order_with_channels_first_in_channels_last_memory(make_train_set):
    samples = all_samples(make_train_set())[:3]
    batch = collate(samples)
    for i, sample in enumerate(samples):
        for name in ("images", "unlabeled_0", "unlabeled_1"):
            np.testing.assert_array_equal(getattr(batch, name)[i].permute(1, 2, 0).numpy(), sample[name])
        np.testing.assert_array_equal(batch.labels[i].numpy(), sample["labels"])
        np.testing.assert_array_equal(batch.mask[i].numpy(), sample["mask"])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == batch.labels.dtype == batch.mask.dtype == torch.uint8


def test_all_fields_of_a_batch_move_to_a_device():
    batch = TrainBatch(**{name: torch.zeros(2, 3) for name in FIELDS}).to(torch.device("meta"))
    assert {getattr(batch, name).device.type for name in FIELDS} == {"meta"}


def test_a_batch_splits_into_parts_of_the_same_size_in_order(make_train_set):
    batch = collate(all_samples(make_train_set())[:6])
    parts = batch.split(3)
    assert [len(part.images) for part in parts] == [2, 2, 2]
    for name in FIELDS:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_each_unreadable_image_in_a_row_is_replaced_by_the_next_of_the_order(make_train_set, bad):
    dataset = make_train_set(samples=7)
    dataset.skip_unreadable = True
    order = [dataset.sample(0, position, Purpose.ORDER_UNLABELED_0).image for position in range(7)]
    damaged, read = set(order[2 : 2 + bad]), []

    class Some(Files):
        def image(self, path: Path) -> np.ndarray:
            if path in damaged:
                raise UserError(f"{path}: damaged")
            read.append(path)
            return super().image(path)

    dataset.files = Some(NUM_CLASSES)
    dataset.skipped = []
    dataset.unlabeled_sample(0, 2, 0)
    assert read == [order[2 + bad]]
    assert dataset.skipped == [f"{path}: damaged" for path in order[2 : 2 + bad]]
