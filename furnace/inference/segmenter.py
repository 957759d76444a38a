"""A snapshot at work: images to scores by sliding windows, for evaluation, prediction and submission alike."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from furnace.engine.checkpoint import Snapshot, load_network, load_snapshot
from furnace.engine.numerics import autocast, chosen_amp, memory_format, set_precision
from furnace.methods.build import METHODS, build_network
from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings

BRANCHES = ("1", "2", "both")
Tag = TypeVar("Tag")


class Segmenter:
    """One branch of an experiment's network, or both, over images of any size.

    Args:
        C: checked settings.
        device: where to compute.
        branch: "1" (conservative), "2" (progressive), "both", the mean of their probabilities, or None, that which
            the method reports.

    The method is that of `C` until a snapshot says that it was made with another one.

    Raises:
        UserError: the method trains one branch only.
    """

    def __init__(self, C: Settings, device: torch.device, branch: str | None = None):
        self.C, self.device, self.asked = C, device, branch
        self.amp = chosen_amp(C.amp, device)
        set_precision(self.amp)
        self._build()
        self.normalize = Normalize(C.image_mean, C.image_std).to(device)
        self.window = SlidingWindow(
            C.eval_crop_size, C.eval_stride_rate, C.eval_scale_array, C.eval_flip, C.eval_batch_size
        )

    def load(self, path: str | Path) -> Snapshot:
        """Take the weights of a snapshot. Raises UserError where it is damaged or does not fit."""
        snapshot = load_snapshot(path)
        method = snapshot.settings.get("method", self.C.method)
        if method != self.C.method and isinstance(method, str) and method in METHODS:
            self.C = self.C.model_copy(update={"method": method})
            self._build()
        load_network(self.network, snapshot, path, self.C.model_dump())
        return snapshot

    def _build(self) -> None:
        """Make the network of the method, and choose the branch."""
        method = METHODS[self.C.method]
        self.branch = self.asked or method.reported
        if self.branch != "1" and method.branches < 2:
            raise UserError(f"--branch {self.branch}: method {self.C.method!r} trains one branch only; use --branch 1")
        network = build_network(self.C, pretrained=False).eval()
        self.network = network.to(self.device, memory_format=memory_format(self.device))

    @torch.inference_mode()
    def stream(self, images: Iterable[tuple[np.ndarray, Tag]]) -> Iterator[tuple[Tag, Tensor]]:
        """Scores (K, H, W) of images (H, W, 3) uint8 RGB, in their order, each with the tag that came with it.

        They are sums over windows, mirrors and scales; `probabilities` averages them.
        """
        yield from self.window.stream(images, self.window_scores, self.to_input)

    def to_input(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, h, w) uint8 as the network takes them, on its device."""
        return self.normalize(pixels.to(self.device))

    def window_scores(self, windows: Tensor) -> Tensor:
        """Logits of one branch, or the mean probabilities of both, float32, in the precision that `C.amp` allows."""
        with autocast(self.device, self.amp):
            return branch_scores(self.network, windows, self.branch).float()

    @torch.inference_mode()
    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities (K, H, W) from the scores of an image, averaged over the windows that cover a pixel."""
        blank = np.zeros((*scores.shape[-2:], 3), dtype=np.uint8)
        count = self.window.scores(blank, lambda windows: torch.ones_like(windows[:, :1]), self.to_input)
        mean = scores / count
        return mean if self.branch == "both" else mean.softmax(0)


def branch_scores(network: torch.nn.Module, images: Tensor, branch: str) -> Tensor:
    """Logits (B, K, H, W) of branch "1" or "2" for normalised images, or for "both" the mean of their probabilities."""
    if branch != "both":
        return network(images, int(branch))
    return (network(images, 1).softmax(1) + network(images, 2).softmax(1)) / 2


def to_array(values: Tensor) -> np.ndarray:
    """A map (H, W) of whole numbers up to 255 as uint8 on the host."""
    return values.to(torch.uint8).cpu().numpy()
