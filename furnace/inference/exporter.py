"""Export a snapshot to one file that runs without this project: ONNX, TorchScript or PyTorch's exported program."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from rich.console import Console
from torch import Tensor, nn

from furnace import base_model
from furnace.base_model.decoders import LIBRARY_DECODERS
from furnace.base_model.encoders import ENCODERS
from furnace.datasets.reading import read_image
from furnace.datasets.splits import read_list
from furnace.engine.distributed import CPU
from furnace.inference.choice import choose_snapshot
from furnace.inference.options import FORMATS
from furnace.inference.segmenter import Segmenter
from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.normalize import Normalize
from furnace.utils.errors import UserError
from furnace.utils.files import replacing
from furnace.utils.labels import IGNORE_INDEX
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console
from furnace.utils.wording import byte_size, one_line

METADATA = "metadata.json"
SHAPES = (2, 3, 64, 96), (2, 3, 128, 192), (1, 3, 161, 97)  # first: to trace, others: to compare
REAL_IMAGES = 2
SMALLEST_SIDE = 32  # pt2 files reject images of 16 pixels or less, whose deepest map is one pixel
SHOWN = 120  # characters of a library's error
TOLERANCE = 1e-3  # difference / largest score, or share of pixels whose labels differ
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """Form of the file: `kind` from `FORMATS`, with normalisation (input is then uint8), labels instead of scores."""

    kind: str
    normalize: bool = False
    labels: bool = False


class Differs(UserError):
    """A file that does not compute what the network does."""


class Deployed(nn.Module):
    """One or two branches of a network, from images to scores or labels.

    Args:
        branches: one, or two whose probabilities are averaged.
        normalize: applied to the images first, or None.
        labels: return the most likely class (B, H, W) uint8 instead of scores (B, K, H, W).
        side: of the images, if they must be square; None: any size.
    """

    def __init__(self, branches: list[nn.Module], normalize: Normalize | None, labels: bool, side: int | None = None):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.normalize, self.labels, self.side = normalize, labels, side

    def forward(self, images: Tensor) -> Tensor:
        if self.normalize is not None:
            images = self.normalize(images)
        scores = [upsample(branch(images), images.shape[-2:]) for branch in self.branches]
        if len(scores) > 1:
            scores = [sum(one.softmax(1) for one in scores) / len(scores)]
        return scores[0].argmax(1).to(torch.uint8) if self.labels else scores[0]


class Exporter:
    """Export snapshots of the experiment of `C`.

    Args:
        C: checked settings.
        branch: as in `Segmenter`.
        form: of the file.
        console: for messages.
    """

    def __init__(self, C: Settings, branch: str | None, form: Form, console: Console | None = None):
        self.C, self.form, self.console = C, form, console or open_console()
        self.segmenter = Segmenter(C.updated(amp="off"), CPU, branch)

    @property
    def branch(self) -> str:
        """The exported branch."""
        return self.segmenter.branch

    def run(self, which: str, path: str | Path | None = None) -> Path:
        """Export the snapshot named by `which` and compare the file with it; returns the path.

        The default path is in `export/` of the log folder.

        Raises:
            UserError: several snapshots, a path with another format's suffix, or the file's output differs too much.
        """
        snapshot = choose_snapshot(self.C, which, "export", self.segmenter.asked)
        suffix = FORMATS[self.form.kind]
        if path and (Path(path).is_dir() or Path(path).suffix in {*FORMATS.values()} - {suffix}):
            raise UserError(f"-p {path}: --format {self.form.kind} writes one file; name it, such as model{suffix}")
        epoch = self.segmenter.load(snapshot).epoch
        for note in self.segmenter.notes:
            self.console.print(note, soft_wrap=True, highlight=False)
        name = f"{self.C.this_dir}_{snapshot.stem}_branch-{self.branch}{suffix}"
        path = Path(path or Path(self.C.log_dir) / "export" / name)
        side, *others = self.sides()
        try:
            self.write(path, epoch, side)
        except Exception as error:  # PyTorch's exporters raise various exceptions
            if not others or (isinstance(error, UserError | OSError) and not isinstance(error, Differs)):
                raise
            self.console.print(
                f"impossible for images of any size ({one_line(error)[:SHOWN]}); now for {others[0]}x{others[0]}",
                markup=False,
                soft_wrap=True,
            )
            side = others[0]
            self.write(path, epoch, side)
        self.console.print(f"{path}: {byte_size(path.stat().st_size)}", soft_wrap=True)
        if self.C.eval_scale_array != (1,):
            scales = " and ".join(f"{scale:g}" for scale in self.C.eval_scale_array)
            self.console.print(f"it does not scale images: evaluation does, by {scales}", soft_wrap=True)
        mirrors = ", mirrored, too" if self.C.eval_flip else ""
        takes = "whole images" if side is None else f"images of {side}x{side} pixels"
        self.console.print(
            f"it takes {takes}: evaluation takes windows of {self.C.eval_crop_size}, padded with zeros{mirrors}",
            soft_wrap=True,
        )
        return path

    def write(self, path: Path, epoch: int, side: int | None) -> None:
        """Write a file for square images of a side, or of any size (None); a file that differs gets no name."""
        model = self.deployed(side)
        with replacing(path) as part:
            with warnings.catch_warnings(), base_model.padding_of_any_size() if self.of_timm else nullcontext():
                warnings.simplefilter("ignore")  # PyTorch's exporters warn about future changes
                SAVE[self.form.kind](model, self.example(self.shapes(side)[0]), self.metadata(epoch, side), part)
            self.compare(model, LOAD[self.form.kind](part), path)

    def deployed(self, side: int | None = None) -> Deployed:
        """The exported part of the network."""
        network = self.segmenter.network
        branches = network.branches[:2] if self.branch == "both" else [network.branches[int(self.branch) - 1]]
        inside = self.segmenter.normalize if self.form.normalize else None
        return Deployed(branches, inside, self.form.labels, side).eval()

    @property
    def of_timm(self) -> bool:
        """True if an encoder is one of timm's."""
        return any(name not in ENCODERS for name in self.segmenter.C.backbone.split(","))

    def sides(self) -> list[int | None]:
        """Sides of the images that the file may take, the best first; None: any size."""
        C = self.segmenter.C
        encoders = [ENCODERS.find(name) for name in C.backbone.split(",")]
        if C.decoder in LIBRARY_DECODERS or any(encoder.fits for encoder in encoders):
            return [C.eval_crop_size]
        return [None, C.eval_crop_size] if self.of_timm else [None]  # most of timm's can be exported for any size

    def shapes(self, side: int | None) -> list[tuple[int, ...]]:
        """Image shapes: the first to trace the network, the others to compare file and network."""
        return list(SHAPES) if side is None else [(n, 3, side, side) for n in (2, 1, 3)]

    def metadata(self, epoch: int, side: int | None) -> dict[str, str]:
        """Metadata of the file, as JSON by key."""
        C, classes = self.segmenter.C, self.segmenter.classes
        scores = "probabilities" if self.branch == "both" else "logits"
        content = {
            "classes": classes.names,
            "palette": classes.palette,
            "ignored": IGNORE_INDEX,
            "input": f"(B, 3, {side or 'H'}, {side or 'W'}) RGB "
            + ("uint8" if self.form.normalize else "float32, (pixel / 255 - mean) / std"),
            "smallest_side": side or SMALLEST_SIDE,
            "scales": self.C.eval_scale_array,
            "flip": self.C.eval_flip,
            "window": self.C.eval_crop_size,
            "stride_rate": self.C.eval_stride_rate,
            "mean": C.image_mean,
            "std": C.image_std,
            "output": "(B, H, W) uint8 labels" if self.form.labels else f"(B, K, H, W) float32 {scores}",
            "experiment": C.this_dir,
            "dataset": C.dataset_name,
            "backbone": C.backbone,
            "branch": self.branch,
            "epoch": epoch,
        }
        return {key: json.dumps(value) for key, value in content.items()}

    def example(self, shape: tuple[int, ...]) -> Tensor:
        """Random images, in the format that the file takes."""
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(self.C.seed))
        return pixels if self.form.normalize else self.segmenter.normalize(pixels)

    def real_images(self, side: int | None) -> Iterator[tuple[str, Tensor]]:
        """The first images of the evaluation list, if it exists, at a size that the file takes."""
        try:
            samples = read_list(self.C.eval_source, self.C.dataset_path, self.C.eval_folder, labeled=False)
            images = [(sample, read_image(sample.image)) for sample in samples[:REAL_IMAGES]]
        except UserError as error:
            self.console.print(f"not compared on real images: {error}", markup=False, soft_wrap=True)
            return
        for sample, image in images:
            enlarged = [side or max(own, SMALLEST_SIDE) for own in image.shape[1::-1]]
            pixels = torch.from_numpy(cv2.resize(image, enlarged)).permute(2, 0, 1)[None]
            yield sample.name, pixels if self.form.normalize else self.segmenter.normalize(pixels)

    @torch.inference_mode()
    def compare(self, model: nn.Module, run: Run, path: Path) -> float:
        """Print and return the largest difference between network and file. Raises UserError if it is too large."""
        cases = [("random", self.example(shape)) for shape in self.shapes(model.side)[1:]]
        cases += self.real_images(model.side)
        largest = 0.0
        for name, images in cases:
            expected, found = model(images), run(images)
            if self.form.labels:
                difference = (expected != found).double().mean().item()
                limit, what = TOLERANCE, "share of labels that differ"
            else:
                difference = (expected - found).abs().max().item()
                limit, what = TOLERANCE * max(expected.abs().max().item(), 1.0), "largest difference"
            size = "x".join(map(str, images.shape))
            self.console.print(f"{name} {size}: {what} {difference:.2e}", soft_wrap=True, highlight=False)
            if not difference <= limit:
                raise Differs(f"{path}: differs from the network by {difference:.2e} on {name}, {size}; not written")
            largest = max(largest, difference)
        self.console.print(f"largest of all: {largest:.2e}", highlight=False)
        return largest


def save_onnx(model: nn.Module, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    import onnx  # only this format needs it

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    output = "labels" if model.labels else "scores"
    program = torch.onnx.export(
        model,
        (example,),
        input_names=["images"],
        output_names=[output],
        dynamic_shapes=dynamic_shapes(model.side),
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)


def load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def save_torchscript(model: nn.Module, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(model, example, check_trace=False)
    traced.save(str(path), _extra_files={METADATA: json.dumps(metadata)})


def load_torchscript(path: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


def save_pt2(model: nn.Module, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes(model.side))
    with open(path, "wb") as file:  # given a path, torch.export requires the suffix .pt2
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def load_pt2(path: Path) -> Run:
    with open(path, "rb") as file:  # as in `save_pt2`
        # The guards of PyTorch 2.11 refuse many sizes that the program computes correctly.
        return torch.export.load(file).module(check_guards=False)


def dynamic_shapes(side: int | None) -> tuple[dict]:
    """Dynamic dimensions of the input: the batch, and without a fixed side also height and width."""
    return (dict.fromkeys((0, 2, 3) if side is None else (0,), torch.export.Dim.DYNAMIC),)


SAVE = {"onnx": save_onnx, "torchscript": save_torchscript, "pt2": save_pt2}
LOAD = {"onnx": load_onnx, "torchscript": load_torchscript, "pt2": load_pt2}
