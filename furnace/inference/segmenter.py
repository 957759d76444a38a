"""Predict class scores with a trained snapshot, by sliding windows."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from furnace.datasets.catalog import Classes, build_classes, find_classes
from furnace.engine.devices import local_device, parse_devices
from furnace.engine.numerics import autocast, choose_amp, memory_format, set_precision
from furnace.engine.snapshots import Snapshot, check_weights, load_network, load_snapshot
from furnace.inference.folding import prepare_for_inference
from furnace.inference.options import BRANCHES
from furnace.methods.build import build_network, described_method
from furnace.methods.settings import open_settings
from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import few, one_line

Tag = TypeVar("Tag")


class Prediction(NamedTuple):
    """Labels (H, W) uint8 of an image and, if requested, their probability (H, W) float32; on the device."""

    labels: Tensor
    confidence: Tensor | None = None


class Segmenter:
    """Segment images of any size with one branch of a trained network, or with two.

    Args:
        C: checked settings; a snapshot's own method, networks, classes and normalisation replace those given here.
        device: where to compute.
        branch: "1" (conservative), "2" (progressive), "3" or "4" (their averages, if `C.teacher` is "ema"), "both" (the
            mean probabilities of 1 and 2), or None (the branch that the method reports).

    After `load`, `C` and `classes` are those of the snapshot, and `notes` has remarks on it.
    `segmenter(image (H, W, 3) uint8 RGB)` gives labels (H, W) uint8.
    """

    def __init__(self, C: Settings, device: torch.device, branch: str | None = None):
        self.given, self.C, self.device, self.asked = C, C, device, branch
        self.window = SlidingWindow(
            C.eval_crop_size, C.eval_stride_rate, C.eval_scale_array, C.eval_flip, C.eval_batch_size
        )

    def load(self, path: str | Path) -> Snapshot:
        """Build the network of a snapshot and load its weights.

        Raises:
            UserError: the file is damaged or does not match, its weights are not finite, or its method has no such
                branch.
        """
        snapshot = load_snapshot(path)
        self.notes = [snapshot.note] if snapshot.note else []
        check_weights(snapshot.model, path, "the training failed before it was saved; use an earlier snapshot")
        self.C = C = open_settings(snapshot.settings, path, self.given)
        method = described_method(C)
        self.branch = self.asked or method.reported
        branches = method.branch_count
        if (2 if self.branch == "both" else int(self.branch)) > branches:
            has = "trains one branch only; use --branch 1" if branches == 1 else f"has {branches} branches"
            raise UserError(f"--branch {self.branch}: method {C.method!r} {has}")
        self.classes = snapshot_classes(snapshot, C, self.given)
        if (asked := self.given.class_names) not in ((), self.classes.names):
            self.notes.append(f"class_names: {few(asked)} given, but {path} has {few(self.classes.names)}, used here")
        if (count := len(self.given.class_colors)) not in (0, C.num_classes):
            self.notes.append(f"class_colors: {count} given, but {path} has {C.num_classes} classes; not used")
        network = build_network(C, pretrained=False, tensors=snapshot.model)
        load_network(network, snapshot, C.model_dump(mode="json"))
        self.amp, _ = choose_amp(self.given.amp, self.device, network)
        set_precision(self.amp)
        self.network = network.eval().to(self.device, memory_format=memory_format(self.device))
        if self.given.amp != "off":  # "off" is the bitwise reference
            prepare_for_inference(network, self.amp)
        self.normalize = Normalize(C.image_mean, C.image_std).to(self.device)
        return snapshot

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, probabilities: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Labels (H, W) uint8 of an image (H, W, 3) uint8 RGB, optionally with probabilities (K, H, W) float32.

        Raises:
            UserError: the image has another type or shape.
        """
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)):
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"image: is {what}; give a NumPy array of uint8 of shape (height, width, 3), RGB")
        image = np.require(image, requirements="W")  # PyTorch warns about arrays that can't be changed
        if not probabilities:
            ((_, found),) = self.stream([(image, None)])
            return to_array(found.labels)

        def reduce(*sums: Tensor) -> tuple[Tensor, Tensor]:
            return likeliest(*sums), self.probabilities(*sums)

        ((_, maps),) = self.window.stream([(image, None)], self.window_scores, self.to_input, reduce)
        labels, values = maps
        return to_array(labels), values.cpu().numpy()

    @torch.inference_mode()
    def stream(
        self, images: Iterable[tuple[np.ndarray, Tag]], confidence: bool = False
    ) -> Iterator[tuple[Tag, Prediction]]:
        """Yield the prediction for each image (H, W, 3) uint8 RGB, in order, with the image's tag."""

        def reduce(*sums: Tensor) -> tuple[Tensor, ...]:
            return (likeliest(*sums), self.probabilities(*sums).amax(0)) if confidence else (likeliest(*sums),)

        for tag, maps in self.window.stream(images, self.window_scores, self.to_input, reduce):
            yield tag, Prediction(*maps)

    def to_input(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, h, w) uint8 as input for the network, normalised and on its device."""
        return self.normalize(pixels.to(self.device))

    def window_scores(self, windows: Tensor) -> Tensor:
        """Logits of one branch or mean probabilities of two, float32, computed in the precision that `C.amp` allows."""
        with autocast(self.device, self.amp):
            return branch_scores(self.network, windows, self.branch).float()

    def probabilities(self, scores: Tensor, counts: Tensor) -> Tensor:
        """Probabilities (K, h, W) from the mean scores: their sums (K, h, W) and numbers (h, W)."""
        mean = scores / counts
        return mean if self.branch == "both" else mean.softmax(0)


def load_segmenter(
    path: str | Path,
    device: str | torch.device | None = None,
    branch: str | None = None,
    C: Settings | None = None,
    **options: Any,
) -> Segmenter:
    """Open a snapshot: `labels = load_segmenter("epoch-34.pth")(image)`.

    Args:
        path: a snapshot.
        device: as `-d` of the commands, such as "0" or "cpu"; None: the first GPU, or the CPU.
        branch: as in `Segmenter`.
        C: settings for files without settings, such as those of the published code: `load_config("exp_voc")`.
        options: other settings, such as `eval_scale_array=(0.75, 1, 1.25)`.

    Raises:
        UserError: the file is damaged, or has no settings and `C` is missing.
    """
    if branch not in (None, *BRANCHES):
        raise UserError(f"branch = {branch!r}: choose one of {', '.join(BRANCHES)}, or None")
    if C is None:
        C = open_settings(load_snapshot(path).settings, path)
    segmenter = Segmenter(
        C.updated(**options), local_device(parse_devices(None if device is None else str(device))), branch
    )
    segmenter.load(path)
    return segmenter


def snapshot_classes(snapshot: Snapshot, C: Settings, given: Settings) -> Classes:
    """Class names and colours of a snapshot, or of its settings `C` if the snapshot has none that match.

    The names `given` replace the default names of a snapshot without class names, the colours replace any others.
    """
    names, palette = snapshot.classes.get("names"), snapshot.classes.get("palette")
    if isinstance(names, list) and isinstance(palette, list) and len(names) == len(palette) == C.num_classes:
        colours = tuple(tuple(int(value) for value in colour) for colour in palette)
        classes = Classes(tuple(map(one_line, names)), colours)
    else:
        classes = build_classes(C)
    unnamed = classes.names == find_classes("", C.num_classes).names
    if unnamed and len(given.class_names) == C.num_classes:
        classes = replace(classes, names=given.class_names)
    return replace(classes, palette=given.class_colors) if len(given.class_colors) == C.num_classes else classes


def branch_scores(network: torch.nn.Module, images: Tensor, branch: str) -> Tensor:
    """Logits (B, K, H, W) of a branch for normalised images; for "both", the mean probabilities of 1 and 2."""
    if branch != "both":
        return network(images, int(branch))
    return (network(images, 1).softmax(1) + network(images, 2).softmax(1)) / 2


def likeliest(scores: Tensor, _: Tensor) -> Tensor:
    """Class with the highest score: sums (K, h, W) to labels (h, W) uint8."""
    return scores.max(0).indices.to(torch.uint8)  # faster than argmax on CPUs


def to_array(values: Tensor) -> np.ndarray:
    """A map (H, W) of whole numbers from 0 to 255, as uint8 on the host."""
    return values.to(torch.uint8).cpu().numpy()
