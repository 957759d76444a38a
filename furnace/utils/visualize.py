"""Pictures of images and label maps."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from furnace.seg_opr.losses import IGNORE_INDEX

IGNORED_COLOUR = (224, 224, 192)
GAP = 4
Palette = Sequence[tuple[int, int, int]]


def full_palette(palette: Palette) -> np.ndarray:
    """Colours of all 256 label values, (256, 3) uint8; 255 gets that of ignored pixels."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED_COLOUR
    return colours


def colour(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Labels (H, W) uint8 as an RGB picture (H, W, 3) uint8."""
    return full_palette(palette)[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.55) -> np.ndarray:
    """The colours of `labels` (H, W) over `image` (H, W, 3) uint8."""
    return cv2.addWeighted(image, 1 - opacity, colour(labels, palette), opacity, 0)


def strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """RGB pictures (H, W_i, 3) side by side, with white gaps."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (H, W, 3) uint8 as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def save_labels(path: Path, labels: np.ndarray, palette: Palette) -> None:
    """Write labels (H, W) uint8 as a palette PNG: its indices are the labels, and it shows their colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(full_palette(palette).tobytes())
    picture.save(path)
