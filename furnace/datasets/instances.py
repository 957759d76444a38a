"""COCO's instance annotations (Lin et al., ECCV 2014) as a source of label maps."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from furnace.datasets.archives import Entry, Source
from furnace.utils.errors import UserError
from furnace.utils.labels import IGNORE_INDEX

BACKGROUND = 0
PNG_BYTES = 2**13  # typical size of a label map of COCO
MIN_NUMBERS = 6  # per polygon: x and y of three points


class Instances(Source):
    """The annotations of one instances_*.json: one member per image, named as the image without its suffix.

    A member's content is JSON: [height, width, [[class, is a crowd, segmentation], ...]]; `draw_label` draws it.

    Args:
        path: the file or archive, for messages.
        content: of the JSON file.
        names: of all categories, in the order of their ids; the class of a category is its place among them, from 1.

    Raises:
        UserError: the categories are others, or it is not such a file.
    """

    def __init__(self, path: Path, content: bytes, names: Sequence[str]):
        super().__init__(path)
        try:
            found = json.loads(content)
            categories = sorted(found["categories"], key=lambda category: category["id"])
            self.images = {Path(image["file_name"]).stem: image for image in found["images"]}
            self.objects: dict[int, list[dict]] = {image["id"]: [] for image in found["images"]}
            for annotation in found["annotations"]:
                self.objects[annotation["image_id"]].append(annotation)
            self.classes = {category["id"]: index for index, category in enumerate(categories, 1)}
            own = [category["name"] for category in categories]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{path}: not COCO's instances, or damaged ({reason}); download it again") from error
        if own != list(names):
            strange = sorted(set(own) ^ set(names))[:1] or ["another order"]
            raise UserError(f"{path}: {len(own)} categories, not the {len(names)} of COCO ({strange[0]})")

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        for name in self.images:
            yield name, Entry(PNG_BYTES, True)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            image = self.images[name]
            objects = [
                [self.classes.get(found["category_id"]), found.get("iscrowd", 0), found["segmentation"]]
                for found in self.objects[image["id"]]
            ]
            yield name, json.dumps([image["height"], image["width"], objects]).encode()


def draw_label(content: bytes) -> np.ndarray:
    """The label map (H, W) uint8 of a member of `Instances`.

    Crowds are drawn first, as ignored pixels: their outlines enclose other things, too. Objects follow, the larger ones
    first, so that smaller ones cover larger ones. All other pixels are background.

    Raises:
        ValueError: an object's class or outline can't be used.
    """
    from pycocotools import mask

    height, width, objects = json.loads(content)
    layers = []
    for label, is_crowd, segmentation in objects:
        if label is None:
            raise ValueError("an object of a category that the file does not list")
        shape = encode(segmentation, height, width)
        layers.append((not is_crowd, -int(mask.area(shape)), IGNORE_INDEX if is_crowd else label, shape))
    drawn = np.full((height, width), BACKGROUND, dtype=np.uint8)
    for *_, value, shape in sorted(layers, key=lambda layer: layer[:2]):
        drawn[mask.decode(shape).astype(bool)] = value
    return drawn


def encode(segmentation: list | dict, height: int, width: int) -> dict:
    """The run-length code of pycocotools for polygons or for a list of run lengths."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        # Fewer than three points enclose nothing, but pycocotools would read them as the corner and sides of a box.
        polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_NUMBERS]
        if not polygons:
            return mask.encode(np.zeros((height, width), np.uint8, order="F"))
        return mask.merge(mask.frPyObjects(polygons, height, width))
    if segmentation["size"] != [height, width]:
        raise ValueError(f"a region of {segmentation['size']} pixels in an image of {[height, width]}")
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, height, width)
    return segmentation
