"""Pictures of images and label maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from furnace.utils.files import part_of
from furnace.utils.fonts import drawable, drawable_names, pillow_font
from furnace.utils.labels import IGNORE_INDEX

IGNORED_COLOUR = (224, 224, 192)
GAP = 4
CAPTION_HEIGHT, CAPTION_SIZE = 18, 13
SWATCH = 12
DOTS = "..."
Palette = Sequence[tuple[int, int, int]]


def full_palette(palette: Palette) -> np.ndarray:
    """Colours of all 256 label values, (256, 3) uint8; 255 has the colour of ignored pixels."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED_COLOUR
    return colours


def colour(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Labels (H, W) uint8 as an RGB picture (H, W, 3) uint8."""
    return full_palette(palette)[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float) -> np.ndarray:
    """Blend the colours of `labels` (H, W) over `image` (H, W, 3) uint8; pixels of black classes stay unchanged."""
    colours = colour(labels, palette)
    mixed = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    return np.where(colours.any(axis=2, keepdims=True), mixed, image)


def strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """RGB pictures (H, W_i, 3) side by side, with white gaps."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def heat(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of shape (H, W) as an RGB picture (H, W, 3) uint8: dark blue to yellow."""
    levels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """An RGB picture (H, W, 3) with a line of text above it, (H + CAPTION_HEIGHT, W, 3)."""
    line = Image.new("RGB", (picture.shape[1], CAPTION_HEIGHT), "white")
    text = drawable(text)
    ImageDraw.Draw(line).text((1, 1), text, fill="black", font=pillow_font(text, CAPTION_SIZE))
    return np.concatenate([np.asarray(line), picture])


def legend(names: Sequence[str], palette: Palette, width: int = 480) -> np.ndarray:
    """Legend of class names and colours, wrapped at `width` pixels; (H, width, 3) uint8.

    Names are cut to the width, and transliterated if no font has their letters, see `furnace.utils.fonts`.
    """
    names = [fitted(name, width - SWATCH - 3 * GAP) for name in drawable_names(names)]
    places, x, y = [], GAP, 0
    for name in names:
        length = SWATCH + GAP + round(pillow_font(name, CAPTION_SIZE).getlength(name)) + 3 * GAP
        if x + length > width and x > GAP:
            x, y = GAP, y + CAPTION_HEIGHT
        places.append((x, y))
        x += length
    picture = Image.new("RGB", (width, y + CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), name, entry in zip(places, names, palette, strict=True):
        draw.rectangle((x, y + 3, x + SWATCH, y + 3 + SWATCH), fill=tuple(entry), outline="black")
        middle = (x + SWATCH + GAP, y + 3 + SWATCH / 2)
        draw.text(middle, name, fill="black", font=pillow_font(name, CAPTION_SIZE), anchor="lm")
    return np.asarray(picture)


def fitted(text: str, width: int) -> str:
    """Cut a drawable text to `width` pixels, with dots at the end if it was longer."""
    font, whole = pillow_font(text, CAPTION_SIZE), text
    while text and font.getlength(text if text == whole else text + DOTS) > width:
        text = text[:-1]
    return text if text == whole else text + DOTS


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Stack RGB pictures (H_i, W_i, 3) vertically, padded with white to the widest."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [np.pad(p, ((0, GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(rows)


def save_picture(path: Path, picture: np.ndarray, texts: Mapping[str, str] | None = None) -> None:
    """Write a picture (H, W, 3) uint8 RGB, or (H, W) uint8 grey, as PNG with `texts` in it, making its folder."""
    carried = PngInfo()
    for name, text in (texts or {}).items():
        carried.add_text(name, text)
    _save(Image.fromarray(picture), path, pnginfo=carried)


def save_labels(path: Path, labels: np.ndarray, palette: Palette) -> None:
    """Write labels (H, W) uint8 as a palette PNG: its indices are the labels, and it shows their colours."""
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(full_palette(palette).tobytes())
    _save(picture, path)


def _save(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a PNG completely or not at all; a link of that name is replaced, not followed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        picture.save(part, "PNG", **options)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
