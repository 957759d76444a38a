"""Rules about settings that an encoder decides: the sizes of crops and windows that it takes."""

from collections.abc import Iterator
from typing import Any

from furnace.base_model.encoders import ENCODERS, Encoder
from furnace.utils.settings import MAX_SIDE

SEARCHED = 512  # sides to try in each direction


def sized(backbone: str) -> list[Encoder]:
    """The encoders of a setting that do not take images of any size."""
    found = [ENCODERS.find(name) for name in backbone.split(",") if ENCODERS.knows(name)]
    return [encoder for encoder in found if encoder.fits]


def crops_fit(C: Any) -> bool:
    """True if the encoders take the training crops."""
    return all(encoder.fits(C.image_height, C.image_width) for encoder in sized(C.backbone))


def windows_fit(C: Any) -> bool:
    """True if the encoders take the windows of the evaluation."""
    return all(encoder.fits(C.eval_crop_size, C.eval_crop_size) for encoder in sized(C.backbone))


def nearest(backbone: str, *sides: int) -> str:
    """Fault of sides, with the nearest ones that fit."""
    found = {side for near in sides for side in (*first(backbone, near, -1), *first(backbone, near, 1))}
    told = f"the nearest are {' and '.join(map(str, sorted(found)))}" if found else "none of about this size fits"
    return f"must be sides that the encoder takes; {told}"


def first(backbone: str, side: int, direction: int) -> Iterator[int]:
    """The first side in a direction that all encoders take, if there is one."""
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
