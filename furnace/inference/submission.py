"""Files for the official benchmark servers: label ids for Cityscapes, palette PNGs in folders for Pascal VOC."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS, voc_palette
from furnace.datasets.encoding import encode_label
from furnace.datasets.reading import read_image
from furnace.datasets.splits import Sample, read_list
from furnace.engine.distributed import rank, world_size
from furnace.inference.choice import choose_snapshot
from furnace.inference.segmenter import Segmenter, to_array
from furnace.utils.background import BackgroundWriter, ahead
from furnace.utils.errors import UserError
from furnace.utils.files import write_atomically
from furnace.utils.progress import ProgressBar
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console

# Segmentation with training data beyond the challenge's images, such as the augmented labels and ImageNet.
VOC_COMPETITION = "comp6"
CITYSCAPES_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class Server:
    """One benchmark server.

    Attributes:
        num_classes: of the benchmark.
        place: function (name, split) to the path of a prediction, relative to the output folder.
        encode: function from labels (H, W) uint8 to a PNG.
        hint: how to upload the files.
    """

    num_classes: int
    place: Callable[[str, str], str]
    encode: Callable[[np.ndarray], bytes]
    hint: str


def cityscapes_place(name: str, _: str) -> str:
    return f"{name.removesuffix(CITYSCAPES_SUFFIX)}_pred_labelIds.png"


def cityscapes_encode(labels: np.ndarray) -> bytes:
    return encode_label(np.array(CITYSCAPES_LABEL_IDS, dtype=np.uint8)[labels])


def voc_place(name: str, split: str) -> str:
    return f"results/VOC2012/Segmentation/{VOC_COMPETITION}_{split}_cls/{name}.png"


def voc_encode(labels: np.ndarray) -> bytes:
    return encode_label(labels, voc_palette(256))


SERVERS = {
    "cityscapes": Server(
        len(CITYSCAPES_LABEL_IDS), cityscapes_place, cityscapes_encode, "zip the folder's PNGs and upload the archive"
    ),
    "pascal_voc": Server(21, voc_place, voc_encode, "tar czf results.tgz results, in this folder, and upload it"),
}


class Submission:
    """Predict the images of `C.test_source`, or of the evaluation list if it is not set, for an official server.

    Args:
        C: checked settings.
        device: where to compute.
        branch: as in `Segmenter`.
        folder: for the files.
        console: for progress and messages.

    Raises:
        UserError: no server is known for the data set, the list of images is missing, or two images have the same name.
    """

    def __init__(
        self, C: Settings, device: torch.device, branch: str | None, folder: Path, console: Console | None = None
    ):
        server = SERVERS.get(C.dataset_name)
        if server is None or server.num_classes != C.num_classes:
            known = " or ".join(f"{name} with {entry.num_classes} classes" for name, entry in SERVERS.items())
            raise UserError(
                f"--submit: no benchmark server for C.dataset_name = {C.dataset_name!r} with {C.num_classes} classes, "
                f"only for {known}; predict.py writes label maps for any images"
            )
        self.C, self.folder, self.server = C, folder, server
        self.console = console or open_console(quiet=rank() > 0)
        source, images = (C.test_source, C.test_folder) if C.test_source else (C.eval_source, C.eval_folder)
        self.samples: list[Sample] = read_list(source, C.dataset_path, images, labeled=False)
        check_distinct(self.samples)
        self.split = Path(source).stem
        self.segmenter = Segmenter(C, device, branch)

    def run(self, which: str) -> list[Path]:
        """Predict with the snapshot named by `which`; returns the files that this process wrote.

        Raises:
            UserError: several snapshots, one of another data set, or an image is missing or damaged.
        """
        snapshot = choose_snapshot(self.C, which, "a submission", self.segmenter.asked)
        self.segmenter.load(snapshot)
        own = self.segmenter.C
        if (own.dataset_name, own.num_classes) != (self.C.dataset_name, self.server.num_classes):
            raise UserError(
                f"{snapshot}: was trained on {own.dataset_name} with {own.num_classes} classes; --submit needs one of "
                f"{self.C.dataset_name} with {self.server.num_classes}"
            )
        for note in self.segmenter.notes:
            self.console.print(note, soft_wrap=True, highlight=False)
        share = self.samples[rank() :: world_size()]
        written = []
        with ProgressBar(snapshot.stem, len(share), self.console) as bar, BackgroundWriter() as background:
            images = (
                (image, sample.image.stem) for sample, image in ahead(lambda sample: read_image(sample.image), share)
            )
            for name, found in self.segmenter.stream(images):
                path = self.folder / self.server.place(name, self.split)
                background(self._write, path, to_array(found.labels))
                written.append(path)
                bar.update()
        if rank() == 0:
            self.console.print(
                f"{len(self.samples)} label maps of {self.split}: {self.folder}; {self.server.hint}", soft_wrap=True
            )
        return written

    def _write(self, path: Path, labels: np.ndarray) -> None:
        write_atomically(path, self.server.encode(labels))


def check_distinct(samples: Sequence[Sample]) -> None:
    """Raise UserError if two images have the same name: servers identify images by name, without folders."""
    first: dict[str, Path] = {}
    for sample in samples:
        if (other := first.setdefault(sample.image.stem, sample.image)) != sample.image:
            raise UserError(
                f"--submit: {other} and {sample.image}: the server takes one label map per name; rename an image, "
                "or submit them separately"
            )
