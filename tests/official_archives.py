"""Small archives with the structure of the official ones, for the tools that prepare data sets."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, COCO_NAMES, voc_palette

Members = dict[str, bytes]
SIZE = (12, 16)
VOC_TRAIN = ["2007_000032", "2007_000039", "2008_000008"]
VOC_VAL = ["2007_000033", "2007_000042"]
SBD_TRAIN = ["2008_000002", "2008_000008", "2007_000033"]  # the second is also in VOC train, the third in VOC val
SBD_VAL = ["2009_000005", "2007_000039"]
VOC_AUGMENTED = ["2007_000032", "2007_000039", "2008_000002", "2008_000008", "2009_000005"]
OFFICIAL_CLASS, SBD_CLASS = 5, 7  # of the same pixels, to see which label was used
CITY_FRAMES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"],
    "val": ["frankfurt_000000_000294", "munster_000000_000019"],
    "test": ["berlin_000000_000019"],
}
ADE20K_NAMES = {
    "training": [f"ADE_train_{i:08d}" for i in range(1, 13)],
    "validation": [f"ADE_val_{i:08d}" for i in range(1, 3)],
}
COCO_IDS = {"train": [9, 25, 30, 34, 36, 42], "val": [139, 285]}
# COCO's 80 category ids between 1 and 90.
COCO_CATEGORY_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def jpeg(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG of noise; `size` is height and width."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def png(values: np.ndarray, palette: bool = False) -> bytes:
    """A PNG of grey values, RGB values, or indices into the VOC colour map."""
    picture, file = Image.fromarray(values), io.BytesIO()
    if palette:
        picture.putpalette([v for colour in voc_palette(256) for v in colour])
    picture.save(file, "PNG")
    return file.getvalue()


def label(image_id: str, value: int) -> np.ndarray:
    """A label of background and one class, with one ignored pixel and two pixels that depend on the image."""
    values = np.zeros(SIZE, dtype=np.uint8)
    values[2:6, 3:9] = value
    values[8, 8] = 255
    values[10, 1:3] = int(image_id[-6:]) % 21, int(image_id[:4]) % 21
    return values


def voc_members() -> Members:
    """Members of VOCtrainval_11-May-2012.tar, with more images than the lists name."""
    ids = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL, "2011_003281"})
    root = "VOCdevkit/VOC2012"
    lists = {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": [*VOC_TRAIN, *VOC_VAL]}
    return {
        **{f"{root}/ImageSets/Segmentation/{name}.txt": lines(ids) for name, ids in lists.items()},
        f"{root}/ImageSets/Main/train.txt": b"2007_000027\n",
        **{f"{root}/JPEGImages/{i}.jpg": jpeg(int(i.replace("_", ""))) for i in ids},
        **{
            f"{root}/SegmentationClass/{i}.png": png(label(i, OFFICIAL_CLASS), palette=True)
            for i in [*VOC_TRAIN, *VOC_VAL]
        },
        **{f"{root}/SegmentationObject/{i}.png": png(label(i, 1), palette=True) for i in [*VOC_TRAIN, *VOC_VAL]},
    }


def sbd_members() -> Members:
    """Members of benchmark.tgz; the lists come last."""
    root = "benchmark_RELEASE/dataset"
    ids = [*SBD_TRAIN, *SBD_VAL]
    return {
        **{f"{root}/cls/{i}.mat": matrix(sbd_label(i)) for i in ids},
        **{f"{root}/img/{i}.jpg": jpeg(0) for i in ids},
        f"{root}/inst/{ids[0]}.mat": matrix(label(ids[0], 1)),
        f"{root}/train.txt": lines(SBD_TRAIN),
        f"{root}/val.txt": lines(SBD_VAL),
    }


def aug_members() -> Members:
    """Members of a SegmentationClassAug archive: grey labels of every image, including those of VOC val."""
    ids = {*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL}
    return {f"SegmentationClassAug/{i}.png": png(sbd_label(i)) for i in sorted(ids)}


def sbd_label(image_id: str) -> np.ndarray:
    """A label of SBD, without ignored pixels."""
    values = label(image_id, SBD_CLASS)
    values[values == 255] = 0
    return values


def matrix(values: np.ndarray) -> bytes:
    """A .mat file like those of SBD."""
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": values, "CategoriesPresent": [[7]]}})
    return file.getvalue()


def city_image_members() -> Members:
    """Members of leftImg8bit_trainvaltest.zip."""
    rng = np.random.default_rng(0)
    members = {"README": b"", "license.txt": b"terms"}
    for split, frames in CITY_FRAMES.items():
        for frame in frames:
            picture = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            members[f"leftImg8bit/{split}/{frame.split('_')[0]}/{frame}_leftImg8bit.png"] = png(picture)
    return members


def city_label_members() -> Members:
    """Members of gtFine_trainvaltest.zip; the labels of test contain ignored pixels only."""
    members = {"README": b"", "license.txt": b"terms"}
    for split, frames in CITY_FRAMES.items():
        for frame in frames:
            stem = f"gtFine/{split}/{frame.split('_')[0]}/{frame}_gtFine"
            members[f"{stem}_labelIds.png"] = png(city_label_ids(frame))
            members[f"{stem}_color.png"] = png(np.zeros((*SIZE, 4), dtype=np.uint8))
            members[f"{stem}_instanceIds.png"] = png(city_label_ids(frame))
            members[f"{stem}_polygons.json"] = b"{}"
    return members


def city_label_ids(frame: str) -> np.ndarray:
    """Official label ids; every id from 0 to 33 occurs."""
    return (
        np.random.default_rng(len(frame)).permutation(np.arange(SIZE[0] * SIZE[1]) % 34).astype(np.uint8).reshape(SIZE)
    )


def naive_train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Train ids, pixel by pixel."""
    known = {official: train for train, official in enumerate(CITYSCAPES_LABEL_IDS)}
    return np.array([[known.get(int(value), 255) for value in row] for row in label_ids])


def ade20k_members() -> Members:
    """Members of ADEChallengeData2016.zip."""
    root, members = "ADEChallengeData2016", {"ADEChallengeData2016/objectInfo150.txt": b"Idx\tRatio\n"}
    for split, names in ADE20K_NAMES.items():
        for name in names:
            members[f"{root}/images/{split}/{name}.jpg"] = jpeg(len(members))
            members[f"{root}/annotations/{split}/{name}.png"] = png(ade20k_label(name))
    return members


def ade20k_label(name: str) -> np.ndarray:
    """An official label with every value from 0 to 150, at different places in each image."""
    first = 15 * int(name[-8:])
    return (np.arange(first, first + SIZE[0] * SIZE[1]) % 151).astype(np.uint8).reshape(SIZE)


def coco_instances(split: str) -> dict:
    """Content of instances_{split}2017.json: two overlapping squares as polygons, and a crowd as run lengths.

    The image with id 9 has no annotations, as some images in COCO.
    """
    height, width = SIZE
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": height, "width": width, "license": 1} for i in COCO_IDS[split]
    ]
    annotations = []
    for place, i in enumerate(COCO_IDS[split]):
        person, other = COCO_CATEGORY_IDS[0], COCO_CATEGORY_IDS[-1 - place]
        crowd = {"size": [height, width], "counts": [height * 8, height * 8]}  # the right half, in columns
        shapes = [
            (person, 0, [[8, 2, 12, 2, 12, 6, 8, 6]]),  # x from 8 to 11, y from 2 to 5
            (other, 0, [[2, 1, 14, 1, 14, 10, 2, 10]]),  # x from 2 to 13, y from 1 to 9
            (person, 1, crowd),
        ]
        annotations += [
            {"id": 10 * i + n, "image_id": i, "category_id": c, "iscrowd": crowd, "segmentation": shape}
            for n, (c, crowd, shape) in enumerate(shapes)
            if i != 9
        ]
    names = dict(zip(COCO_CATEGORY_IDS, COCO_NAMES[1:], strict=True))
    categories = [{"id": i, "name": names[i], "supercategory": "thing"} for i in reversed(COCO_CATEGORY_IDS)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_mask(image_id: int, split: str) -> np.ndarray:
    """The mask of `coco_instances`, pixel by pixel: the small square lies on the large one, both on the crowd."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    if image_id != 9:
        mask[:, 8:] = 255
        mask[1:10, 2:14] = 80 - COCO_IDS[split].index(image_id)
        mask[2:6, 8:12] = 1
    return mask


def coco_archives() -> dict[str, Members]:
    """Members of COCO's three archives, by archive name."""
    splits = ("train", "val")
    found = {f"{split}2017.zip": {f"{split}2017/{i:012d}.jpg": jpeg(i) for i in COCO_IDS[split]} for split in splits}
    instances = {f"annotations/instances_{s}2017.json": json.dumps(coco_instances(s)).encode() for s in splits}
    return found | {"annotations_trainval2017.zip": instances | {"annotations/captions_val2017.json": b"{}"}}


def lines(ids: list[str]) -> bytes:
    """The content of a list file."""
    return "".join(f"{i}\n" for i in ids).encode()


def write_tar(path: Path, members: Members) -> Path:
    """Write a tar, compressed if the suffix is .tgz."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: Members) -> Path:
    """Write a zip with entries for folders, like the official ones."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rpartition("/")[0] for name in members} - {""}):
            archive.writestr(f"{folder}/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, members: Members) -> Path:
    """Write a folder, as an extracted archive."""
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
