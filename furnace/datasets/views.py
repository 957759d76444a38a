"""Views of an image: lists of transforms of (image, generator).

Geometric transforms run in the loader on arrays, and also move labels and the map of valid pixels. Photometric ones run
on the device, image by image. All views of one unlabelled image have the geometry of the teacher's view, so that its
labels fit pixel by pixel.

The photometric transforms of "strong" are those of UniMatch (Yang et al., CVPR 2023), after CutMix-Seg and FixMatch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from furnace.datasets.batch import TrainBatch
from furnace.datasets.randomness import Draws, Purpose
from furnace.datasets.transforms import crop_image, crop_label, draw_crop
from furnace.seg_opr.normalize import Normalize
from furnace.utils.errors import UserError
from furnace.utils.names import STRONG, WEAK, Registry


@dataclass
class Pixels:
    """Arrays of one image that geometric transforms move together; None for absent ones.

    `image` (H, W, 3) uint8 RGB, `label` (H, W) uint8, `valid` (H, W) uint8: 1 for image, 0 for padding.
    """

    image: np.ndarray | None = None
    label: np.ndarray | None = None
    valid: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return next(array.shape[:2] for array in (self.image, self.label, self.valid) if array is not None)


Geometric = Callable[[Pixels, np.random.Generator], Pixels]
Photometric = Callable[[Tensor, np.random.Generator], Tensor]  # (3, H, W) in [0, 1]


@dataclass(frozen=True)
class MirrorScaleCrop:
    """Mirror with probability 0.5, scale by one of `scales`, and crop to `crop` (h, w), padding with `fill` (RGB)."""

    crop: tuple[int, int]
    scales: Sequence[float]
    fill: tuple[int, int, int]

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        drawn = draw_crop(pixels.size, self.crop, self.scales, rng)
        return Pixels(
            None if pixels.image is None else crop_image(pixels.image, drawn, self.crop, self.fill),
            None if pixels.label is None else crop_label(pixels.label, drawn, self.crop),
            None if pixels.valid is None else crop_label(pixels.valid, drawn, self.crop, fill=0),
        )


@dataclass(frozen=True)
class ColorJitter:
    """With `probability`, change brightness, contrast, saturation and hue, in random order."""

    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    probability: float = 0.8

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.probability:
            return image
        changes = [
            (F.adjust_brightness, rng.uniform(1 - self.brightness, 1 + self.brightness)),
            (F.adjust_contrast, rng.uniform(1 - self.contrast, 1 + self.contrast)),
            (F.adjust_saturation, rng.uniform(1 - self.saturation, 1 + self.saturation)),
            (F.adjust_hue, rng.uniform(-self.hue, self.hue)),
        ]
        for index in rng.permutation(len(changes)):
            change, amount = changes[index]
            image = change(image, amount)
        return image


@dataclass(frozen=True)
class Grey:
    """With `probability`, make the image grey, in three equal channels."""

    probability: float = 0.2

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        return F.rgb_to_grayscale(image, 3) if rng.random() < self.probability else image


@dataclass(frozen=True)
class Blur:
    """With `probability`, blur with a Gaussian; its standard deviation is from the range `sigma`, in pixels."""

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.probability:
            return image
        sigma = rng.uniform(*self.sigma)
        # Padding by reflection needs sides longer than the reach.
        reach = min(int(np.ceil(3 * sigma)), min(image.shape[-2:]) - 1)
        return F.gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2)


@dataclass(frozen=True)
class View:
    """Geometric and photometric transforms, each in order."""

    geometric: Sequence[Geometric]
    photometric: Sequence[Photometric] = field(default=())

    def crop(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Apply all geometric transforms."""
        for transform in self.geometric:
            pixels = transform(pixels, rng)
        return pixels

    def colour(self, images: Tensor, draws: Draws, *purpose: int) -> Tensor:
        """Apply all photometric transforms to images (B, 3, H, W) in [0, 1]; returns the same tensor without any.

        Raises:
            UserError: a transform changes the shape or type.
        """
        if not self.photometric:
            return images
        found = []
        for index, image in enumerate(images):
            rng = draws.stream(*purpose, index=index)
            for transform in self.photometric:
                image = transform(image, rng)
            found.append(image)
            if image.shape != images.shape[1:] or image.dtype != images.dtype:
                raise UserError(
                    f"a view gives {image.dtype} {tuple(image.shape)} for {images.dtype} {tuple(images.shape[1:])}; "
                    "photometric transforms keep the shape and values from 0 to 1"
                )
        return torch.stack(found)


@dataclass(frozen=True)
class Preparation:
    """Prepare a loader's batch for the networks: on the device, with all views, normalised.

    Args:
        labeled, teacher, students: views of the labelled images and of the unlabelled ones.
        normalize: from pixels to the network's input.
        device, memory_format: of the images.
    """

    labeled: View
    teacher: View
    students: Sequence[View]
    normalize: Normalize
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, batch: TrainBatch, draws: Draws) -> TrainBatch:
        """The prepared batch; its random numbers come from `draws`."""
        batch = batch.to(self.device)
        images = self._finish(self.labeled, batch.images, draws, Purpose.COLOUR_LABELED)
        changed = {"images": images, "labels": batch.labels.long(), "skipped": [], "draws": draws}
        for stream, pixels in enumerate((batch.unlabeled_0, batch.unlabeled_1)):
            if pixels is None:
                continue
            changed[f"unlabeled_{stream}"] = of_teacher = self._finish(
                self.teacher, pixels, draws, Purpose.COLOUR_TEACHER, stream
            )
            changed[f"students_{stream}"] = tuple(
                # One tensor if both see the same, so that one pass can serve both.
                self._finish(view, pixels, draws, Purpose.COLOUR_STUDENT, stream, number)
                if view.photometric or self.teacher.photometric
                else of_teacher
                for number, view in enumerate(self.students)
            )
        return replace(batch, **changed)

    def _finish(self, view: View, pixels: Tensor, draws: Draws, *purpose: int) -> Tensor:
        images = view.colour(self.normalize.unit(pixels), draws, *purpose)
        return self.normalize(images).contiguous(memory_format=self.memory_format)


# Functions of the weak view, which has the geometry of the settings.
VIEWS: Registry[Callable[[View], View]] = Registry("view")


@VIEWS.register(WEAK)
def weak(base: View) -> View:
    """The geometry alone."""
    return base


@VIEWS.register(STRONG)
def strong(base: View) -> View:
    """Colour jitter, grey and blur after the geometry."""
    return replace(base, photometric=(ColorJitter(), Grey(), Blur()))
