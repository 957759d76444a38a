"""Compare the time of a training step with the sum of its kernels, and list the longest kernels.

python benchmarks/kernels.py exp_camvid -d 0 -o backbone=resnet18 -o image_height=256 -o image_width=256
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from furnace.checks.estimate import random_batch
from furnace.engine.devices import parse_devices
from furnace.engine.learner import build_learner
from furnace.engine.numerics import memory_format
from furnace.methods.build import build_network
from furnace.methods.settings import load_config
from furnace.utils.arguments import add_overrides, number
from furnace.utils.config import parse_overrides
from furnace.utils.errors import run
from furnace.utils.terminal import Table, open_console

WARM_UP = 5  # steps: compilation, then warm-up and recording of CUDA graphs
SHOWN = 80  # characters of a kernel's name


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds per step; waits for the device before and after each step."""
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        begin = time.perf_counter()
        step()
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def kernel_seconds(step: Callable[[], object], device: torch.device, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds and number of calls per step of each kernel (on a CPU: of each operator), the longest first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            step()
        wait_for(device)
    found = {
        event.key: (
            1e-6 / repeats * (event.self_device_time_total if on_gpu else event.self_cpu_time_total),
            event.count,
        )
        for event in profiler.key_averages()
    }
    kernels = {name: (seconds, calls / repeats) for name, (seconds, calls) in found.items() if seconds}
    return dict(sorted(kernels.items(), key=lambda kernel: -kernel[1][0]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="experiment folder; it defines shapes, batch and network")
    parser.add_argument("-d", "--devices", help="0, or cpu")
    parser.add_argument("--repeats", type=number("--repeats", 1), default=20, help="timed steps (default: 20)")
    parser.add_argument("--kernels", type=number("--kernels", 0), default=20, help="listed kernels (default: 20)")
    add_overrides(parser)
    args = parser.parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    device = parse_devices(args.devices)[0]
    torch.manual_seed(0)
    network = build_network(C, pretrained=False).to(device, memory_format=memory_format(device))
    learner = build_learner(C, network)
    batch = random_batch(C, device, C.batch_size, C.image_height, C.image_width)

    begin = time.perf_counter()
    learner.step(batch, 0)
    wait_for(device)
    first = time.perf_counter() - begin
    for _ in range(WARM_UP):
        learner.step(batch, 0)
    seconds = step_seconds(lambda: learner.step(batch, 0), device, args.repeats)
    kernels = kernel_seconds(lambda: learner.step(batch, 0), device, args.repeats)
    total = sum(spent for spent, _ in kernels.values())
    table = Table("kernel", "ms per step", "share", "calls", title=f"{C.this_dir}: {C.backbone}, {device}")
    for name, (spent, calls) in list(kernels.items())[: args.kernels]:
        table.add_row(name[:SHOWN], f"{1e3 * spent:.3f}", f"{spent / total:.1%}", f"{calls:g}")
    console = open_console()
    console.print(table)
    console.print(
        f"first step {first:.1f} s; step {seconds:.4f} s, {seconds / total:.2f} x its kernels ({total:.4f} s)"
    )
    if learner.graphs:
        console.print(f"passes that could not become CUDA graphs: {counters['inductor']['cudagraph_skips']}")


if __name__ == "__main__":
    run(main)
