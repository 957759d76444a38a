"""Small archives in the structure of the official ones, for the preparing tools."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, voc_palette

Members = dict[str, bytes]
SIZE = (12, 16)
VOC_TRAIN = ["2007_000032", "2007_000039", "2008_000008"]
VOC_VAL = ["2007_000033", "2007_000042"]
SBD_TRAIN = ["2008_000002", "2008_000008", "2007_000033"]  # the second is of VOC train, the third of VOC val
SBD_VAL = ["2009_000005", "2007_000039"]
VOC_AUGMENTED = ["2007_000032", "2007_000039", "2008_000002", "2008_000008", "2009_000005"]
OFFICIAL_CLASS, SBD_CLASS = 5, 7  # of the same pixels, to see which label was taken
CITY_FRAMES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"],
    "val": ["frankfurt_000000_000294", "munster_000000_000019"],
    "test": ["berlin_000000_000019"],
}


def jpeg(seed: int) -> bytes:
    """A JPEG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def png(values: np.ndarray, palette: bool = False) -> bytes:
    """A PNG of grey values, of RGB, or of indices into the VOC colour map."""
    picture, file = Image.fromarray(values), io.BytesIO()
    if palette:
        picture.putpalette([v for colour in voc_palette(256) for v in colour])
    picture.save(file, "PNG")
    return file.getvalue()


def label(image_id: str, value: int) -> np.ndarray:
    """A label of background and one class, with an ignored pixel, and two that differ from image to image."""
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
    """Members of a SegmentationClassAug: grey labels of every image, those of VOC val, too."""
    ids = {*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL}
    return {f"SegmentationClassAug/{i}.png": png(sbd_label(i)) for i in sorted(ids)}


def sbd_label(image_id: str) -> np.ndarray:
    """SBD's label; it has no ignored pixels."""
    values = label(image_id, SBD_CLASS)
    values[values == 255] = 0
    return values


def matrix(values: np.ndarray) -> bytes:
    """A .mat as those of SBD."""
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
    """Members of gtFine_trainvaltest.zip: of test there are labels of ignored pixels only."""
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
    """Official label ids, every one of 0 to 33 among them."""
    return (
        np.random.default_rng(len(frame)).permutation(np.arange(SIZE[0] * SIZE[1]) % 34).astype(np.uint8).reshape(SIZE)
    )


def naive_train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Train ids, pixel by pixel."""
    known = {official: train for train, official in enumerate(CITYSCAPES_LABEL_IDS)}
    return np.array([[known.get(int(value), 255) for value in row] for row in label_ids])


def lines(ids: list[str]) -> bytes:
    """A list file."""
    return "".join(f"{i}\n" for i in ids).encode()


def write_tar(path: Path, members: Members) -> Path:
    """A tar, compressed if the name says so."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: Members) -> Path:
    """A zip with entries for folders, as the official ones have."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rpartition("/")[0] for name in members} - {""}):
            archive.writestr(f"{folder}/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, members: Members) -> Path:
    """The folder that an archive is extracted to."""
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
