"""Time, share, arithmetic rate and memory of a CPCL training step, part by part, next to the published arrangement.

python benchmarks/step.py exp_city -d 0        # 16 x 800 x 800 on a GPU
python benchmarks/step.py exp_toy -d cpu       # small, on a CPU
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import published_losses
from furnace.datasets.dataset import TrainBatch
from furnace.engine.distributed import parse_devices
from furnace.engine.estimate import random_batch
from furnace.engine.learner import Learner, build_learner
from furnace.engine.numerics import AMP_DTYPES, autocast, chosen_amp, memory_format
from furnace.engine.optim import build_optimizer
from furnace.methods.build import build_criterion, build_network
from furnace.methods.unlabeled import student_images, teacher_votes
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import combine
from furnace.utils.config import Settings, load_config, parse_overrides
from furnace.utils.errors import run

PASSES_PER_IMAGE = 16  # two networks, four forward passes each and two backward ones at twice the cost


class Clock:
    """Seconds of named parts, waiting for the device at their ends."""

    def __init__(self, device: torch.device):
        self.device, self.parts = device, {}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def part(self, name: str):
        self.wait()
        begin = time.perf_counter()
        yield
        self.wait()
        self.parts.setdefault(name, []).append(time.perf_counter() - begin)


def timed_parts(C: Settings, learner: Learner, batch: TrainBatch, clock: Clock) -> None:
    """One step as in `furnace.methods.cpcl`, its parts on the clock; losses and pseudo labels apart from the passes."""
    network, device = learner.network, clock.device
    criterion = build_criterion(C).to(device)
    network.train()
    for optimizer in learner.optimizers:
        optimizer.zero_grad(set_to_none=True)
    with autocast(device, chosen_amp(C.amp, device)):
        with clock.part("supervised passes"):
            labelled = [network.quarter_logits(batch.images, b) for b in (1, 2)]
        with clock.part("supervised losses"):
            loss = sum(criterion(logits, batch.labels) for logits in labelled)
        with clock.part("teachers' passes and votes"):
            votes = [teacher_votes(network, batch, b) for b in (1, 2)]
        with clock.part("pseudo-labels, agreement"):
            pseudo = combine(*votes, C.num_classes)
        with clock.part("students' passes"):
            students = [network.quarter_logits(student_images(batch), b) for b in (1, 2)]
        with clock.part("unsupervised losses"):
            inter = weighted_cross_entropy(students[0], pseudo.intersection, pseudo.weight_intersection)
            union = weighted_cross_entropy(students[1], pseudo.union, pseudo.weight_union)
            loss = loss + C.unsup_weight * (inter + union)
    with clock.part("backward"):
        loss.backward()
    with clock.part("optimizers"):
        for optimizer in learner.optimizers:
            optimizer.step()


def published_step(C: Settings, device: torch.device) -> Callable[[TrainBatch], None]:
    """A step in the published arrangement."""
    network = build_network(C, pretrained=False).to(device).train()
    optimizers = [build_optimizer(branch, C.lr, C.momentum, C.weight_decay) for branch in network.branches]
    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight, device=device)
    ohem = C.ohem_min_kept * C.batch_size if C.ohem else 0

    def step(batch: TrainBatch) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        published_losses(network, batch, class_weight, C.unsup_weight, ohem).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def measure_published(C: Settings, batch: TrainBatch, clock: Clock, repeats: int) -> tuple[float, float]:
    """`measure` of the published arrangement; its networks are gone afterwards, so that they don't count as ours."""
    step = published_step(C, clock.device)
    return measure(clock, "published", lambda: step(batch), repeats)


def measure(clock: Clock, name: str, step: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds, and peak memory in GiB (0 on a CPU), of `step` after two calls that don't count."""
    for _ in range(2):
        step()
    if clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clock.device)
    for _ in range(repeats):
        with clock.part(name):
            step()
    peak = torch.cuda.max_memory_allocated(clock.device) / 2**30 if clock.device.type == "cuda" else 0.0
    return median(clock.parts[name]), peak


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock = Clock(device)
    seconds, _ = measure(clock, "matmul", lambda: a @ b, 10)
    return 2 * side**3 / seconds


def forward_flop(C: Settings) -> float:
    """Arithmetic of one network's forward pass of one image."""
    network = build_network(C, pretrained=False).eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, C.image_height, C.image_width, device="meta"))
    return float(counter.get_total_flops())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="experiment folder, for shapes, batch and network")
    parser.add_argument("-d", "--devices", help="0, or cpu")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    device = parse_devices(args.devices)[0]
    amp = AMP_DTYPES[chosen_amp(C.amp, device)] or torch.float32
    console = Console()
    torch.manual_seed(0)
    batch = random_batch(C, device, C.batch_size, C.image_height, C.image_width)

    clock = Clock(device)
    theirs, their_peak = measure_published(C, batch, clock, args.repeats)
    network = build_network(C, pretrained=False).to(device, memory_format=memory_format(device))
    learner = build_learner(C, network)
    ours, our_peak = measure(clock, "ours", lambda: learner.step(batch, 0), args.repeats)
    parts = Clock(device)
    for _ in range(args.repeats + 2):
        timed_parts(C, learner, batch, parts)
    rate = matrix_rate(device, amp)
    step_flop = PASSES_PER_IMAGE * C.batch_size * forward_flop(C)

    title = f"{C.this_dir}: {C.batch_size} x {C.image_height} x {C.image_width}, {C.backbone}, {device}, {amp}"
    table = Table("part", "seconds", "share", title=title)
    medians = {name: median(seconds[2:]) for name, seconds in parts.parts.items()}
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.4f}", f"{seconds / sum(medians.values()):.1%}")
    console.print(table)
    figures = Table("arrangement", "seconds", "TFLOP/s", "of matrix rate", "peak GiB")
    for name, seconds, peak in (("published", theirs, their_peak), ("ours", ours, our_peak)):
        achieved = step_flop / seconds
        figures.add_row(name, f"{seconds:.4f}", f"{achieved / 1e12:.2f}", f"{achieved / rate:.1%}", f"{peak:.1f}")
    console.print(figures)
    console.print(
        f"speed-up {theirs / ours:.2f} x; {step_flop / 1e12:.2f} TFLOP a step; {rate / 1e12:.1f} TFLOP/s matrix"
    )


if __name__ == "__main__":
    run(main)
