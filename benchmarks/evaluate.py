"""Compare images per second of the sliding-window evaluation, without decoding, with the published arrangement.

python benchmarks/evaluate.py exp_city -d 0
python benchmarks/evaluate.py exp_toy -d cpu --size 96 128 -o eval_scale_array=0.75,1.25 -o eval_flip=true
python benchmarks/evaluate.py exp_camvid -d cpu --snapshot epoch-last.pth --images 233 --rounds 0
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.published import EVALUATION, published_precision, published_prediction
from furnace.base_model.network import Network
from furnace.datasets.loaders import build_eval_loader
from furnace.datasets.splits import read_list
from furnace.engine.devices import keep_freed_memory, local_device, parse_devices
from furnace.engine.numerics import autocast, choose_amp, memory_format, set_precision
from furnace.inference.folding import prepare_for_inference
from furnace.inference.segmenter import Segmenter, likeliest
from furnace.methods.build import build_network
from furnace.methods.settings import load_config
from furnace.seg_opr.confusion import class_iou, confusion_matrix
from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow
from furnace.utils.arguments import add_overrides, number
from furnace.utils.config import parse_overrides
from furnace.utils.errors import run
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console


def networks(C: Settings, device: torch.device, snapshot: str | None) -> tuple[Network, Network, str]:
    """The network of the published arrangement, ours with the same weights, and the precision of ours."""
    if snapshot:
        ways = [Segmenter(C.updated(amp=amp), device, "1") for amp in ("off", C.amp)]
        for way in ways:
            way.load(snapshot)
        return ways[0].network, ways[1].network, ways[1].amp
    torch.manual_seed(0)
    network = build_network(C, pretrained=False).to(device).eval()
    fast = deepcopy(network).to(memory_format=memory_format(device))
    amp, _ = choose_amp(C.amp, device, network)
    set_precision(amp)
    if C.amp != "off":
        prepare_for_inference(fast, amp)
    return network, fast, amp


def real_images(C: Settings, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first images (H, W, 3) uint8 of the experiment's evaluation list, and their labels (H, W) uint8."""
    samples = read_list(C.eval_source, C.dataset_path, C.eval_folder)[:count]
    _, images, labels = zip(*build_eval_loader(C, samples), strict=True)
    return [image.numpy() for image in images], [label.numpy() for label in labels]


def mean_iou(labels: list[np.ndarray], predictions: list[np.ndarray], num_classes: int) -> float:
    """mIoU in percent."""
    pairs = (map(torch.from_numpy, pair) for pair in zip(labels, predictions, strict=True))
    return 100 * class_iou(sum(confusion_matrix(*pair, num_classes) for pair in pairs)).nanmean().item()


def evaluations(
    C: Settings, device: torch.device, images: list[np.ndarray], snapshot: str | None
) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Functions that predict the labels (H, W) uint8 of all images, by the name of their arrangement."""
    network, fast, amp = networks(C, device, snapshot)
    normalize = Normalize(C.image_mean, C.image_std).to(device)
    window = SlidingWindow(C.eval_crop_size, C.eval_stride_rate, C.eval_scale_array, C.eval_flip, C.eval_batch_size)
    geometry = C.eval_crop_size, C.eval_stride_rate, C.image_mean, C.image_std, device, C.eval_scale_array, C.eval_flip

    def to_input(pixels: torch.Tensor) -> torch.Tensor:
        return normalize(pixels.to(device))

    def published() -> list[np.ndarray]:
        with published_precision():
            return [published_prediction(network, image, *geometry) for image in images]

    def ours() -> list[np.ndarray]:
        with autocast(device, amp):
            stream = window.stream(
                ((image, None) for image in images), fast, to_input, lambda *sums: (likeliest(*sums),)
            )
            return [labels.cpu().numpy() for _, (labels,) in stream]

    return {"published": published, "ours": ours}


def timed(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, in turn, so that a slowdown of the machine affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, evaluate in ways.items():
            begin = time.perf_counter()
            evaluate()
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(found) for name, found in seconds.items() if found}


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Measure, and print the results."""
    args = build_parser().parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    device = local_device(parse_devices(args.devices))
    keep_freed_memory(device)
    if args.snapshot:
        images, labels = real_images(C, args.images)
    else:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (*args.size, 3), dtype=np.uint8) for _ in range(args.images)]
    ways = evaluations(C, device, images, args.snapshot)
    predictions = {name: evaluate() for name, evaluate in ways.items()}  # also a warm-up
    console = open_console()
    if medians := timed(ways, args.rounds):
        for name, seconds in medians.items():
            each = seconds / len(images)
            console.print(f"{name:10} {1 / each:8.2f} images/s {each:8.4f} s per image")
        console.print(f"speed-up {medians['published'] / medians['ours']:.2f} x")
    same = np.mean([np.mean(a == b) for a, b in zip(*predictions.values(), strict=True)])
    console.print(f"{same:.3%} of the predicted pixels are the same")
    if args.snapshot:
        scores = {name: mean_iou(labels, found, C.num_classes) for name, found in predictions.items()}
        console.print(f"mIoU published {scores['published']:.3f}, ours {scores['ours']:.3f}, {len(images)} images")
    console.print(EVALUATION)


def build_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="experiment folder; it defines window and network")
    parser.add_argument("-d", "--devices", help="0, or cpu")
    add_overrides(parser)
    sides = {"nargs": 2, "default": (1024, 2048), "metavar": ("HEIGHT", "WIDTH")}
    parser.add_argument("--size", type=number("--size", 1), **sides, help="of random images (default: 1024 2048)")
    parser.add_argument("--images", type=number("--images", 1), default=16, help="number of images (default: 16)")
    parser.add_argument("--snapshot", metavar="FILE", help="evaluate it on images of the experiment, and compare mIoU")
    parser.add_argument("--rounds", type=number("--rounds", 0), default=3, help="timed rounds (default: 3)")
    return parser


if __name__ == "__main__":
    run(main)
