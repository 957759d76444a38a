"""Generate toy data: overlapping, rotated, textured shapes on textured backgrounds, in the VOC layout."""

from pathlib import Path

import cv2
import numpy as np

from furnace.datasets.catalog import TOY_NAMES, voc_palette
from furnace.datasets.splits import write_list
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.visualize import save_labels, save_picture

SIDES = (96, 129)  # smallest side, and largest side + 1
SHAPES_PER_IMAGE = (2, 6)
HUE_SPREAD = 7  # standard deviation within a class, in OpenCV's 180 steps; neighbouring classes are 30 apart
GROUND_SATURATION = (0, 50)
SHAPE_SATURATION = (90, 190)
NOISE = 10  # grey levels
RATIOS = (4, 8, 16, 32)
FOLDERS = {"train": 256, "val": 64}


def make_toy(
    folder: str | Path, seed: int = 0, counts: dict[str, int] = FOLDERS, ratios: tuple[int, ...] = RATIOS
) -> None:
    """Write images, labels and lists to `folder`; the same bytes for the same seed.

    Args:
        folder: receives {train,val}/{image,label}/*.png, train.txt, val.txt and subset_train/.
        seed: determines everything.
        counts: images by sub-folder.
        ratios: 1/ratio of the training images are listed as labelled.
    """
    folder = Path(folder)
    for part, (name, count) in enumerate(counts.items()):
        names = [f"{name}_{index:04d}" for index in range(count)]
        for index, stem in enumerate(names):
            image, label = draw_scene(np.random.default_rng((seed, part, index)))
            save_picture(folder / name / "image" / f"{stem}.png", image)
            save_labels(folder / name / "label" / f"{stem}.png", label, voc_palette(len(TOY_NAMES)))
        write_list(folder / f"{name}.txt", names, overwrite=True)
    names = [f"train_{index:04d}" for index in range(counts["train"])]
    for ratio in ratios:
        labeled = len(names) // ratio
        write_list(folder / "subset_train" / f"train_labeled_1-{ratio}.txt", names[:labeled], overwrite=True)
        write_list(folder / "subset_train" / f"train_unlabeled_1-{ratio}.txt", names[labeled:], overwrite=True)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image (H, W, 3) uint8 RGB and its label (H, W) uint8; outlines of shapes are ignored, as in VOC."""
    height, width = rng.integers(*SIDES, 2)
    image = texture((height, width), rng.integers(0, 180), rng.uniform(*GROUND_SATURATION), rng)
    label = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(*SHAPES_PER_IMAGE)):
        index = int(rng.integers(1, len(TOY_NAMES)))
        mask = draw_shape(TOY_NAMES[index], (height, width), rng)
        hue = (index - 1) * 180 / (len(TOY_NAMES) - 1) + rng.normal(0, HUE_SPREAD)
        image[mask] = texture((height, width), int(hue) % 180, rng.uniform(*SHAPE_SATURATION), rng)[mask]
        label[mask] = index
        outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        label[outline > 0] = IGNORE_INDEX
    light = rng.uniform(0.6, 1.1)
    noisy = cv2.GaussianBlur(image, (3, 3), 0) * light + rng.normal(0, NOISE, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), label


def texture(size: tuple[int, int], hue: int, saturation: float, rng: np.random.Generator) -> np.ndarray:
    """A plain, striped, spotted or cloudy surface (H, W, 3) uint8 RGB; hue from 0 to 179, saturation from 0 to 255."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(4)
    if kind == 0:
        pattern = np.zeros(size, np.float32)
    elif kind == 1:
        pattern = np.sin(2 * np.pi * along / period)
    elif kind == 2:
        pattern = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    else:
        clouds = rng.normal(0, 1, (size[0] // 8 + 2, size[1] // 8 + 2)).astype(np.float32)
        pattern = cv2.resize(clouds, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    value = 150 + rng.uniform(20, 70) * pattern
    hsv = np.stack([np.full(size, hue), np.full(size, saturation), value.clip(30, 255)], axis=2)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def draw_shape(name: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Mask (H, W) bool of a shape with random position, size and angle."""
    radius = rng.uniform(0.14, 0.32) * min(size)
    outline = OUTLINES[name] * radius
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.1, 0.9, 2) * (size[1], size[0])
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(outline @ turn.T + centre).astype(np.int32)], 1)
    if name == "ring":
        cv2.fillPoly(mask, [np.round(0.5 * outline @ turn.T + centre).astype(np.int32)], 0)
    return mask.astype(bool)


def polygon(corners: int, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Corners (n, 2) on circles of the given radii in turn."""
    angles = np.arange(corners) * 2 * np.pi / corners
    radius = np.resize(radii, corners)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


CROSS = np.array(
    [(-1, 3), (1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3), (-1, -3), (-1, -1), (-3, -1), (-3, 1), (-1, 1)]
)
OUTLINES = {
    "disc": polygon(40),
    "square": polygon(4, (1.1,)),
    "triangle": polygon(3, (1.2,)),
    "star": polygon(10, (1.25, 0.5)),
    "ring": polygon(40, (1.1,)),
    "cross": CROSS / 2.7,
}
