"""Views: image, label and valid pixels share the geometry; the photometry depends on the seed alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from furnace.datasets.batch import TrainBatch
from furnace.datasets.randomness import Draws
from furnace.datasets.views import VIEWS, Blur, ColorJitter, Grey, MirrorScaleCrop, Pixels, Preparation, View
from furnace.seg_opr.normalize import Normalize

CROP, FILL = (24, 28), (1, 2, 3)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
GEOMETRY = MirrorScaleCrop(CROP, (0.5, 1, 2), FILL)
WEAK, STRONG = (VIEWS.find(name)(View([GEOMETRY])) for name in ("weak", "strong"))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 20, 22, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(8))
def test_padding_is_not_valid_and_the_label_moves_with_the_image(seed):
    label = np.random.default_rng(seed).integers(10, 200, (20, 30), dtype=np.uint8)
    pixels = Pixels(np.repeat(label[..., None], 3, 2), label, np.ones_like(label))
    cut = WEAK.crop(pixels, np.random.default_rng(seed))
    padding = (cut.image == FILL).all(2)
    np.testing.assert_array_equal(cut.valid, ~padding)
    assert (cut.label[padding] == 255).all() and (cut.label[~padding] < 200).all()
    alone = WEAK.crop(Pixels(label=label), np.random.default_rng(seed))
    np.testing.assert_array_equal(alone.label, cut.label)


@pytest.mark.parametrize("transform", [ColorJitter(probability=1), Grey(probability=1), Blur((2, 2), probability=1)])
def test_photometric_transforms_change_colours_within_their_range(images, transform):
    found = View([], [transform]).colour(images, Draws(), 0)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert all(not torch.equal(a, b) for a, b in zip(found, images, strict=True))
    if isinstance(transform, Grey):
        assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    if isinstance(transform, Blur):
        assert found.std() < 0.5 * images.std()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (6, 6), (4, 9)])
def test_images_smaller_than_the_kernel_are_blurred(size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 100, dtype=torch.uint8)
    for seed in range(20):
        assert (Blur((2, 2), probability=1)(image, np.random.default_rng(seed)) == 100).all()


def test_transforms_of_probability_zero_change_nothing(images):
    view = View([], [ColorJitter(probability=0), Grey(0), Blur(probability=0)])
    assert torch.equal(view.colour(images, Draws(), 0), images)


def test_draws_per_image_do_not_depend_on_the_division_of_the_batch(images):
    draws = Draws(seed=3, iteration=7)
    whole = STRONG.colour(images, draws, 9, 0)
    parts = [STRONG.colour(part, draws.part(i), 9, 0) for i, part in ((0, images[:2]), (2, images[2:]))]
    assert torch.equal(torch.cat(parts), whole)
    for other in (Draws(3, 8), Draws(4, 7)):
        assert not torch.equal(STRONG.colour(images, other, 9, 0), whole)
    assert not torch.equal(STRONG.colour(images, draws, 9, 1), whole)


def test_a_method_draws_the_same_in_every_run():
    first, again, other = (
        torch.rand(5, generator=draws.generator(torch.device("cpu"), number))
        for draws, number in ((Draws(1, 2), 0), (Draws(1, 2), 0), (Draws(1, 2), 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def prepare(images: Tensor, *students: View) -> TrainBatch:
    pixels = (255 * images).to(torch.uint8)
    labels = torch.zeros(len(images), *images.shape[-2:], dtype=torch.uint8)
    preparation = Preparation(WEAK, WEAK, students, Normalize(MEAN, STD), torch.device("cpu"))
    return preparation(TrainBatch(pixels, labels, pixels, pixels.flip(0)), Draws(0, 1))


def test_prepared_images_are_normalised_and_labels_int64(images):
    found = prepare(images, WEAK)
    pixels = (255 * images).to(torch.uint8).double() / 255
    expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(found.images.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.unlabeled_1.double(), expected.flip(0), rtol=1e-5, atol=1e-5)
    assert found.labels.dtype == torch.int64
    assert found.students_0[0] is found.unlabeled_0, "one pass can serve both"


def test_each_student_has_its_own_colours(images):
    found = prepare(images, WEAK, STRONG, STRONG)
    weak, one, two = found.students_0
    assert weak is found.unlabeled_0
    assert not torch.equal(one, weak) and not torch.equal(one, two)
    part = found.split(3)[1]
    assert torch.equal(part.students_0[2], two[2:4]) and part.students_0[0] is part.unlabeled_0
    assert part.draws.first == 2
