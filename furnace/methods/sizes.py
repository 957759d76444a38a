"""Rules about the sizes of crops and windows that an encoder accepts."""

from collections.abc import Iterator
from typing import Any

from furnace.base_model.encoders import ENCODERS, Encoder
from furnace.utils.settings import MAX_SIDE

SEARCHED = 512  # sides to try in each direction


def sized(backbone: str) -> list[Encoder]:
    """The encoders of `C.backbone` that do not accept every image size."""
    found = [ENCODERS.find(name) for name in backbone.split(",") if ENCODERS.knows(name)]
    return [encoder for encoder in found if encoder.fits]


def crops_fit(C: Any) -> bool:
    """True if the encoders accept the training crops."""
    return all(encoder.fits(C.image_height, C.image_width) for encoder in sized(C.backbone))


def windows_fit(C: Any) -> bool:
    """True if the encoders accept the windows of the evaluation."""
    return all(encoder.fits(C.eval_crop_size, C.eval_crop_size) for encoder in sized(C.backbone))


def nearest(backbone: str, *sides: int) -> str:
    """Message about sides that do not fit, with the nearest sides that fit."""
    found = {side for near in sides for side in (*first(backbone, near, -1), *first(backbone, near, 1))}
    told = f"the nearest are {' and '.join(map(str, sorted(found)))}" if found else "no side near this fits"
    return f"must be sides that the encoder accepts; {told}"


def first(backbone: str, side: int, direction: int) -> Iterator[int]:
    """Yield the nearest side in a direction that all encoders accept, if any."""
    encoders = sized(backbone)
    for candidate in range(side, side + direction * SEARCHED, direction):
        if 0 < candidate <= MAX_SIDE and all(encoder.fits(candidate, candidate) for encoder in encoders):
            yield candidate
            return


RULES = [
    (
        ("image_height", "image_width", "backbone"),
        lambda C: nearest(C.backbone, C.image_height, C.image_width),
        crops_fit,
    ),
    (("eval_crop_size", "backbone"), lambda C: nearest(C.backbone, C.eval_crop_size), windows_fit),
]
