"""Small images, labels and data sets in the layout of Pascal VOC, written for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from furnace.datasets.catalog import voc_palette

PALETTE = np.array(voc_palette(256), dtype=np.uint8)
NUM_CLASSES = 21
VOC = "DATA/pascal_voc"


def write_image(path: Path, image: np.ndarray, **options) -> Path:
    """Write (H, W, 3) or (H, W) uint8 in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def write_palette_label(path: Path, label: np.ndarray) -> Path:
    """Write (H, W) uint8 as a palette PNG with VOC's colours, like the official labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label)
    image.putpalette(PALETTE.tobytes())
    image.save(path)
    return path


def blocky_label(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) uint8 of 4x4 blocks of random classes, some of them ignored."""
    height, width = size
    classes = np.append(np.arange(NUM_CLASSES), 255).astype(np.uint8)
    blocks = rng.choice(classes, (height // 4 + 1, width // 4 + 1))
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def write_voc(volna: Path, labeled: int = 5, unlabeled: int = 7, val: int = 3, suffix: str = ".png") -> Path:
    """Write a data set under `volna`/DATA/pascal_voc and return that folder.

    Images show their label maps in VOC's colours, so that both can be compared after any transform; their sizes
    differ. The lists are those of exp_voc with labeled_ratio 8.
    """
    root = volna / VOC
    rng = np.random.default_rng(0)
    ids = {
        "subset_train_aug/train_aug_labeled_1-8.txt": [f"2007_{i:06d}" for i in range(labeled)],
        "subset_train_aug/train_aug_unlabeled_1-8.txt": [f"2008_{i:06d}" for i in range(unlabeled)],
        "val.txt": [f"2009_{i:06d}" for i in range(val)],
    }
    for list_name, names in ids.items():
        folder = root / ("val" if list_name == "val.txt" else "train_aug")
        for name in names:
            label = blocky_label(rng, tuple(rng.integers(14, 40, 2)))
            write_palette_label(folder / "label" / f"{name}.png", label)
            write_image(folder / "image" / f"{name}{suffix}", PALETTE[label])
        (root / list_name).parent.mkdir(parents=True, exist_ok=True)
        (root / list_name).write_text("\n".join(names), encoding="utf-8")
    return root
