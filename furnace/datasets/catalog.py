"""Class names and colours of the data sets, and the ids of their official labels.

Sources: the PASCAL VOC 2012 development kit, the Cityscapes label definitions, Brostow et al. 2009 (CamVid,
the 11 classes of Badrinarayanan et al. 2017), Zhou et al. 2017 (ADE20K, objectInfo150.txt), and the categories of
COCO's instance annotations (Lin et al. 2014).
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from furnace.utils.settings import Settings


@dataclass(frozen=True)
class Classes:
    """Names and RGB colours of a data set's classes, in the order of their train ids."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def voc_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """The first `count` colours of the VOC colour map: bits of the index spread over R, G and B, high bits first."""

    def level(index: int, channel: int) -> int:
        return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))

    return tuple((level(index, 0), level(index, 1), level(index, 2)) for index in range(count))


def bright_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` colours, of which the first 16 stand out in photographs; the colours of VOC follow.

    Hues by the golden ratio, first saturated, then pale; all colours differ visibly.
    """
    colours = []
    for number in range(min(count, len(SATURATIONS) * HUES)):
        parts = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, SATURATIONS[number // HUES], 1)
        colours.append(tuple(round(255 * part) for part in parts))
    return (*colours, *voc_palette(1 + count - len(colours))[1:])


GOLDEN_RATIO = 0.618034
HUES, SATURATIONS = 8, (1, 0.5)
BLACK = (0, 0, 0)
VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CITYSCAPES_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
CITYSCAPES_PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
# Official label ids of the train ids 0 to 18; every other id is ignored.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Weights of the published supervised loss.
CITYSCAPES_CLASS_WEIGHTS = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip
CAMVID_NAMES = (
    "sky", "building", "pole", "road", "sidewalk", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
CAMVID_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
ADE20K_NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
# Background, and the categories in the order of their ids, which have gaps.
COCO_NAMES = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
TOY_NAMES = ("background", "disc", "square", "triangle", "star", "ring", "cross")

CATALOG = {
    "pascal_voc": Classes(VOC_NAMES, voc_palette(len(VOC_NAMES))),
    "cityscapes": Classes(CITYSCAPES_NAMES, CITYSCAPES_PALETTE),
    "camvid": Classes(CAMVID_NAMES, CAMVID_PALETTE),
    # VOC colours: COCO defines no colours, and two of ADE20K's own are equal. Black is only for backgrounds.
    "ade20k": Classes(ADE20K_NAMES, voc_palette(1 + len(ADE20K_NAMES))[1:]),
    "coco": Classes(COCO_NAMES, voc_palette(len(COCO_NAMES))),
    "toy": Classes(TOY_NAMES, voc_palette(len(TOY_NAMES))),
}

BACKGROUNDS = ("background", "other", "others", "rest", "nothing", "none", "void", "unlabelled", "unlabeled")

# Settings that the published code does not take from config.py, by the name of the data set's folder.
PUBLISHED = {
    "pascal_voc": {"dataset_name": "pascal_voc", "train_folder": "train_aug", "eval_folder": "val"},
    "city": {"dataset_name": "cityscapes", "ohem": True, "class_weight": CITYSCAPES_CLASS_WEIGHTS},
}


def build_classes(C: Settings) -> Classes:
    """The classes of an experiment."""
    classes = find_classes(C.dataset_name, C.num_classes, C.class_names)
    return replace(classes, palette=C.class_colors) if C.class_colors else classes


def find_classes(dataset_name: str, num_classes: int, class_names: Sequence[str] = ()) -> Classes:
    """Names and colours for a data set: the catalog's, or `class_names` and bright colours.

    If neither has `num_classes` names, the classes are called "class 0", "class 1" and so on.
    """
    known = CATALOG.get(dataset_name)
    if known and not class_names and len(known.names) == num_classes:
        return known
    names = class_names or [f"class {i}" for i in range(num_classes)]
    # Overlays show nothing in black, which is for backgrounds.
    first = (BLACK,) if not class_names or class_names[0].lower() in BACKGROUNDS else ()
    return Classes(tuple(names), (*first, *bright_palette(num_classes - len(first))))
