"""Compare images per second of the sliding-window evaluation, without decoding, with the published arrangement.

python benchmarks/evaluate.py exp_city -d 0
python benchmarks/evaluate.py exp_toy -d cpu --size 96 128 -o eval_scale_array=0.75,1.25 -o eval_flip=true
"""

import argparse
import sys
import time
from copy import deepcopy
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.published import EVALUATION, published_precision, published_prediction
from furnace.engine.distributed import parse_devices
from furnace.engine.numerics import autocast, choose_amp, memory_format, set_precision
from furnace.inference.folding import prepare_for_inference
from furnace.methods.build import build_network
from furnace.methods.settings import load_config
from furnace.seg_opr.normalize import Normalize
from furnace.seg_opr.sliding import SlidingWindow
from furnace.utils.arguments import add_overrides, number
from furnace.utils.config import parse_overrides
from furnace.utils.errors import run
from furnace.utils.terminal import open_console

ROUNDS = 3


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="experiment folder; it defines window and network")
    parser.add_argument("-d", "--devices", help="0, or cpu")
    add_overrides(parser)
    parser.add_argument("--size", type=number("--size", 1), nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=number("--images", 1), default=16)
    args = parser.parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    device = parse_devices(args.devices)[0]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*args.size, 3), dtype=np.uint8) for _ in range(args.images)]
    torch.manual_seed(0)
    network = build_network(C, pretrained=False).to(device).eval()
    fast = deepcopy(network).to(memory_format=memory_format(device))
    amp, _ = choose_amp(C.amp, device, network)
    set_precision(amp)
    if C.amp != "off":
        prepare_for_inference(fast, amp)
    normalize = Normalize(C.image_mean, C.image_std).to(device)
    window = SlidingWindow(C.eval_crop_size, C.eval_stride_rate, C.eval_scale_array, C.eval_flip, C.eval_batch_size)

    def published() -> list[np.ndarray]:
        given = (
            C.eval_crop_size,
            C.eval_stride_rate,
            C.image_mean,
            C.image_std,
            device,
            C.eval_scale_array,
            C.eval_flip,
        )
        with published_precision():
            return [published_prediction(network, image, *given) for image in images]

    def ours() -> list[np.ndarray]:
        with autocast(device, amp):
            pairs = ((image, None) for image in images)
            stream = window.stream(
                pairs, fast, lambda pixels: normalize(pixels.to(device)), lambda s, _: (s.argmax(0),)
            )
            return [labels.cpu().numpy() for _, (labels,) in stream]

    ways = {"published": published, "ours": ours}
    predictions = {name: evaluate() for name, evaluate in ways.items()}
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn, so that a slowdown of the machine affects both
        for name, evaluate in ways.items():
            begin = time.perf_counter()
            evaluate()
            rounds[name].append(time.perf_counter() - begin)
    seconds = {name: median(found) for name, found in rounds.items()}
    same = np.mean([np.mean(a == b) for a, b in zip(*predictions.values(), strict=True)])
    console = open_console()
    for name, total in seconds.items():
        console.print(f"{name:10} {args.images / total:8.2f} images/s {total / args.images:8.4f} s per image")
    console.print(
        f"speed-up {seconds['published'] / seconds['ours']:.2f} x; {same:.3%} of the predicted pixels are the same"
    )
    console.print(EVALUATION)


if __name__ == "__main__":
    run(main)
