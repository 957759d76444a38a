"""Compare the cost of our training samples, from files and from a cache, with the published arrangement.

    python benchmarks/loader.py [--camvid FOLDER] [--quick] [--json FILE]

CPU seconds are medians on one core. A sample is one labelled or unlabelled crop; a position in a batch has three.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from furnace.datasets.cache import Cache
from furnace.datasets.catalog import voc_palette
from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.dataset import TrainSet, collate
from furnace.datasets.loaders import BatchPositions, worker_settings
from furnace.datasets.randomness import Purpose, random_stream
from furnace.datasets.reading import Files
from furnace.datasets.splits import Sample, read_list
from furnace.datasets.transforms import Crop, draw_crop, scaled_side
from furnace.datasets.views import MirrorScaleCrop, View
from furnace.utils.arguments import user_path, whole_numbers
from furnace.utils.errors import run
from furnace.utils.files import write_atomically
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.terminal import Table, open_console
from furnace.utils.visualize import save_labels

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALES = [0.5, 0.75, 1, 1.5, 1.75, 2.0]
SAMPLES_PER_POSITION = 3
GENERATED = 6  # images of a generated data set
BATCH = 2
CAPTION = "published: list built for each sample, whole image scaled, then normalised in float64, then cropped"
POSITIONS = 1000  # per epoch


@dataclass(frozen=True)
class Kind:
    """A data set to measure: image size (H, W), file format, crop, number of classes and length of its list."""

    name: str
    size: tuple[int, int]
    suffix: str
    crop: tuple[int, int]
    classes: int
    listed: int
    edges: bool = False  # the published loader computes an edge map of the labels


KINDS = [
    Kind("Cityscapes, generated PNG", (1024, 2048), ".png", (800, 800), 19, 2603, edges=True),
    Kind("VOC, generated JPEG", (375, 500), ".jpg", (512, 512), 21, 9259),
]
CAMVID = Kind("CamVid", (360, 480), "", (352, 352), 11, 367)


def main(argv: list[str] | None = None) -> None:
    """Measure, print the results, and write them as JSON with `--json`."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python benchmarks/loader.py --camvid DATA/camvid --quick"
    )
    parser.add_argument(
        "--camvid", type=user_path, metavar="FOLDER", help="also measure on CamVid, prepared by prepare_camvid"
    )
    parser.add_argument(
        "--workers", type=whole_numbers("--workers", 1), default="1,2", help="numbers of workers (default: 1,2)"
    )
    parser.add_argument("--quick", action="store_true", help="few images, with a quarter of the side length")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="also write the results to this file")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    workers = args.workers
    rounds = 6 if args.quick else 48
    results = []
    for kind in [*KINDS, *([CAMVID] if args.camvid else [])]:
        kind = quarter(kind) if args.quick else kind
        with TemporaryDirectory() as folder:
            if kind.suffix:
                samples = generate(Path(folder), kind)
            else:
                samples = read_list(args.camvid / "train.txt", args.camvid, "train")[: 2 * GENERATED]
            results.append(measure(kind, samples, Path(folder) / "cache", workers, rounds))
        open_console().print(report(results[-1]))
    if args.json:
        write_atomically(args.json, json.dumps(results, indent=1).encode())


def quarter(kind: Kind) -> Kind:
    """The same kind with a quarter of every side."""
    sides = [tuple(side // 4 for side in pair) for pair in (kind.size, kind.crop)]
    return replace(kind, size=sides[0], crop=sides[1])


def generate(folder: Path, kind: Kind) -> list[Sample]:
    """Write smooth, slightly noisy images with about the file size of photographs, and blocky labels."""
    rng = np.random.default_rng(0)
    height, width = kind.size
    samples = []
    for index in range(GENERATED):
        image = rng.normal(128, 3, (height, width, 3)).astype(np.float32)
        for cell in (8, 32, 128):
            coarse = rng.normal(0, 40, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        label = rng.integers(0, kind.classes, (height // 32 + 1, width // 32 + 1), dtype=np.uint8)
        sample = Sample(str(index), folder / f"{index}{kind.suffix}", folder / f"{index}_label.png")
        cv2.imwrite(str(sample.image), image.clip(0, 255).astype(np.uint8))
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        save_labels(sample.label, label, voc_palette(kind.classes))
        samples.append(sample)
    return samples


def measure(kind: Kind, samples: list[Sample], cache_folder: Path, workers: list[int], rounds: int) -> dict:
    """Results of one data set: CPU seconds by kind of sample and way, samples per second by way and workers."""
    published = Published(samples, kind)
    files = make_set(kind, samples, Files(kind.classes))
    cache = make_set(kind, samples, Cache(kind.classes, cache_folder))
    cache.prepare()
    labeled = {
        "decoding": lambda i: files.files.pair(files.sample(0, i, Purpose.ORDER_LABELED)),
        "published": lambda i: published.labeled(files, i),
        "files": lambda i: files.labeled_sample(0, i),
        "cache": lambda i: cache.labeled_sample(0, i),
    }
    unlabeled = {
        "decoding": lambda i: files.files.image(files.sample(0, i, Purpose.ORDER_UNLABELED_0).image),
        "published": lambda i: published.unlabeled(files, i),
        "files": lambda i: files.unlabeled_sample(0, i, 0),
        "cache": lambda i: cache.unlabeled_sample(0, i, 0),
    }
    return {
        "name": kind.name,
        "size": kind.size,
        "crop": kind.crop,
        "labelled": compare(labeled, rounds),
        "unlabelled": compare(unlabeled, rounds),
        "samples_per_second": {
            way: {n: samples_per_second(dataset, n, rounds) for n in workers}
            for way, dataset in (("files", files), ("cache", cache))
        },
    }


def make_set(kind: Kind, samples: list[Sample], files: Files) -> TrainSet:
    """Training set with `samples` as its labelled and its unlabelled images."""
    return TrainSet(
        samples,
        samples,
        view=View([MirrorScaleCrop(kind.crop, SCALES, tuple(round(255 * mean) for mean in MEAN))]),
        crop=kind.crop,
        samples=POSITIONS,
        seed=0,
        masks=BoxMaskGenerator(),
        files=files,
    )


class Published:
    """The published arrangement of loading.

    It builds the list again for each sample, scales the whole image as uint8, normalises it in float64, and crops it.
    For Cityscapes labels it also computes an unused edge map (here: Canny edges, 7 pixels wide). `labeled` and
    `unlabeled` return the crop (3, h, w) float64, `labeled` also its label (h, w) int64, with our random draws.
    """

    def __init__(self, samples: list[Sample], kind: Kind):
        self.samples, self.kind = samples, kind

    def labeled(self, dataset: TrainSet, position: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self._find(dataset.sample(0, position, Purpose.ORDER_LABELED))
        label = dataset.files.label(sample.label)
        image, drawn = self._scaled(dataset, sample, position, Purpose.CROP_LABELED)
        label = label[:, ::-1] if drawn.flip else label
        sides = [
            np.arange(scaled_side(side, drawn.scale)) * side // scaled_side(side, drawn.scale) for side in label.shape
        ]
        label = label[np.ix_(*sides)]
        if self.kind.edges:
            self._cut(edge_map(label), drawn, IGNORE_INDEX)
        return self._cut(image, drawn, 0), self._cut(label.astype(np.int64), drawn, IGNORE_INDEX)

    def unlabeled(self, dataset: TrainSet, position: int) -> np.ndarray:
        sample = self._find(dataset.sample(0, position, Purpose.ORDER_UNLABELED_0))
        return self._cut(*self._scaled(dataset, sample, position, Purpose.CROP_UNLABELED_0), 0)

    def _find(self, sample: Sample) -> Sample:
        """Find `sample` in a list of epoch length that is built and shuffled for this sample alone."""
        names = [self.samples[i % len(self.samples)] for i in range(self.kind.listed)]
        names += [names[i] for i in np.random.default_rng(0).permutation(len(names))[: self.kind.listed % 7]]
        return names[names.index(sample)]

    def _scaled(self, dataset: TrainSet, sample: Sample, position: int, purpose: Purpose) -> tuple[np.ndarray, Crop]:
        image = dataset.files.image(sample.image)
        drawn = draw_crop(image.shape[:2], self.kind.crop, SCALES, random_stream(0, 0, position, purpose))
        image = np.ascontiguousarray(image[:, ::-1]) if drawn.flip else image
        height, width = (scaled_side(side, drawn.scale) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return (image / 255 - MEAN) / STD, drawn

    def _cut(self, array: np.ndarray, drawn: Crop, fill: int) -> np.ndarray:
        height, width = self.kind.crop
        part = array[drawn.top : drawn.top + height, drawn.left : drawn.left + width]
        above, before = (height - part.shape[0]) // 2, (width - part.shape[1]) // 2
        sides = [(above, height - above - part.shape[0]), (before, width - before - part.shape[1])]
        padded = np.pad(part, [*sides, *[(0, 0)] * (part.ndim - 2)], constant_values=fill)
        return np.ascontiguousarray(padded.transpose(2, 0, 1)) if padded.ndim == 3 else padded


def edge_map(label: np.ndarray) -> np.ndarray:
    """Edge map (H, W) uint8 of `label` (H, W) uint8: 255 within three pixels of an edge, else 0."""
    classes = np.where(label == IGNORE_INDEX, 0, label).astype(np.uint8)
    return cv2.dilate(cv2.Canny(classes, 5, 5, apertureSize=7), np.ones((7, 7), np.uint8))


def compare(ways: dict[str, Callable[[int], object]], rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each way, and its ratios to "decoding" and "published": medians over positions.

    All ways run at each position, so the ratios compare the same sample at nearly the same time.
    """
    for work in ways.values():
        work(0)
    found = {way: np.empty(rounds) for way in ways}
    for position in range(rounds):
        for way, work in ways.items():
            begin = time.process_time()
            work(position)
            found[way][position] = time.process_time() - begin
    return {
        way: {
            "cpu_seconds": float(np.median(seconds)),
            "times_decoding": float(np.median(seconds / found["decoding"])),
            "faster_than_published": float(np.median(found["published"] / seconds)),
        }
        for way, seconds in found.items()
    }


def samples_per_second(dataset: TrainSet, workers: int, rounds: int) -> float:
    """Crops per second that the training process gets from `workers` running processes."""
    batches = workers + max(rounds // BATCH, 2)
    loader = DataLoader(
        dataset,
        batch_sampler=BatchPositions(BATCH, batches, 1, 0, 0, 1),
        collate_fn=collate,
        **worker_settings(workers, pin=False),
    )
    for number, _ in enumerate(loader):
        if number == workers - 1:  # then each worker has made its first batch
            begin = time.perf_counter()
    return (batches - workers) * BATCH * SAMPLES_PER_POSITION / (time.perf_counter() - begin)


def report(result: dict) -> Table:
    """The results of one data set as a table."""
    height, width = result["size"]
    speed = result["samples_per_second"]
    table = Table(title=f"{result['name']}, {width}x{height}, crop {result['crop'][0]}; CPU time", caption=CAPTION)
    table.add_column("sample", no_wrap=True)
    workers = [f"samples/s, {n} worker{'s' if n > 1 else ''}" for n in speed["files"]]
    for column in ("ms", "x decoding", "decoding share", "published / this", *workers):
        table.add_column(column, justify="right")
    for kind in ("labelled", "unlabelled"):
        for way, found in result[kind].items():
            ratio = found["times_decoding"]
            share = "-" if way == "cache" else f"{100 / ratio:.0f} %"
            rates = speed.get(way, {}) if kind == "labelled" else {}
            table.add_row(
                f"{kind}, {way}",
                f"{1000 * found['cpu_seconds']:.2f}",
                f"{ratio:.2f}",
                share,
                f"{found['faster_than_published']:.1f}",
                *(f"{rate:.0f}" for rate in rates.values()),
            )
        table.add_section()
    return table


if __name__ == "__main__":
    run(main)
