"""Measure time, arithmetic rate and memory of a CPCL training step and its parts, beside the published arrangement.

python benchmarks/step.py exp_city -d 0        # 16 x 800 x 800 on a GPU
python benchmarks/step.py exp_toy -d cpu       # small, on a CPU
"""

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import STEP, published_losses, published_precision
from furnace.checks.estimate import random_batch
from furnace.datasets.batch import TrainBatch
from furnace.engine.devices import keep_freed_memory, local_device, parse_devices
from furnace.engine.learner import Learner, build_learner
from furnace.engine.numerics import AMP_DTYPES, autocast, memory_format
from furnace.engine.optim import build_optimizer
from furnace.methods.build import build_network
from furnace.methods.settings import load_config
from furnace.methods.unlabeled import student_images
from furnace.seg_opr.losses import weighted_cross_entropy
from furnace.seg_opr.pseudo_label import agreement, combine, predict_mixed
from furnace.utils.arguments import add_overrides, number
from furnace.utils.config import parse_overrides
from furnace.utils.errors import UserError, run
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table, open_console

ROUNDS = 3
# Settings of both arrangements; the published one supports no others.
PUBLISHED = {
    "method": "cpcl",
    "pseudo_labels": "both",
    "union_choice": "disagreement",
    "reweight": True,
    "cutmix": True,
    "accumulate": 1,
}
# Arithmetic in forward passes of one image through one network; a backward pass counts twice.
PASSES = {"supervised passes": 2, "teachers' passes": 4, "students' passes": 2, "backward": 8}
# The losses also compute their gradients with respect to the logits, so these are not in "backward".
LABELS_AND_LOSSES = ("supervised losses", "pseudo-labels, agreement", "unsupervised losses")


class Clock:
    """Seconds of named parts; waits for the device before and after each part."""

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
    """One timed step as in `furnace.methods.cpcl`; losses and pseudo labels are separate from the passes."""
    network, device = learner.network, clock.device
    criterion = learner.method.criterion
    network.train()
    for optimizer in learner.optimizers:
        optimizer.zero_grad(set_to_none=True)
    with autocast(device, learner.amp):
        with clock.part("supervised passes"):
            labeled = [network.logits(batch.images, b) for b in (1, 2)]
        with clock.part("supervised losses"):
            loss = sum(criterion(logits, batch.labels) for logits in labeled)
        with torch.no_grad(), clock.part("teachers' passes"):
            streams = (batch.unlabeled_0, batch.unlabeled_1)
            teachers = [[network.logits(images, b) for images in streams] for b in (1, 2)]
        with clock.part("pseudo-labels, agreement"):
            predictions = [predict_mixed(*logits, batch.mask) for logits in teachers]
            pseudo = combine(*predictions, agreement(*predictions, C.num_classes))
        with clock.part("students' passes"):
            students = [network.logits(student_images(batch), b) for b in (1, 2)]
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
    """Function that runs one step in the published arrangement."""
    torch.manual_seed(0)
    network = build_network(C, pretrained=False).to(device).train()
    rates = {"lr": C.lr, "momentum": C.momentum, "weight_decay": C.weight_decay}
    optimizers = [build_optimizer(branch, **rates) for branch in network.branches]
    class_weight = None if C.class_weight is None else torch.tensor(C.class_weight, device=device)

    def step(batch: TrainBatch) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        ohem = C.ohem_min_kept * len(batch.images) if C.ohem else 0
        with published_precision():
            published_losses(network, batch, class_weight, C.unsup_weight, ohem, C.ohem_thresh).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def our_step(C: Settings, learner: Learner) -> Callable[[TrainBatch], None]:
    """Function that runs one step of ours, with OHEM's `min_kept` for the number of images in its batch."""

    def step(batch: TrainBatch) -> None:
        if C.ohem:
            learner.method.criterion.min_kept = C.ohem_min_kept * len(batch.images)
        learner.step(batch, 0)

    return step


class Arrangement:
    """An arrangement of the training step, with its time and memory.

    Args:
        step: runs one step on a batch.
        batch: split into equal parts if a step on all of it runs out of memory; times are for all parts.
        device: of the batch.
        held: bytes of the device's memory that belong to others.
    """

    def __init__(self, step: Callable[[TrainBatch], object], batch: TrainBatch, device: torch.device, held: int):
        self.step, self.device = step, device
        self.parts, images = 1, len(batch.images)
        while not self._fits(batch.split(self.parts)[0]):
            self.parts = next(n for n in range(self.parts + 1, images + 1) if images % n == 0)
        self.batches = batch.split(self.parts)
        self.peak = self._peak(held)
        self.clock = Clock(device)

    def _fits(self, batch: TrainBatch) -> bool:
        try:
            self.step(batch)
        except torch.OutOfMemoryError:
            if len(batch.images) == 1:
                raise
            return False
        return True

    @property
    def batch(self) -> TrainBatch:
        return self.batches[0]

    def _peak(self, held: int) -> int:
        """Peak memory of this arrangement in bytes."""
        if self.device.type == "cpu":
            return allocated(self.device) - held + growth(lambda: self.step(self.batch))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.step(self.batch)
        return torch.cuda.max_memory_allocated(self.device) - held

    def run(self, repeats: int) -> None:
        """Run one untimed step, then `repeats` timed ones."""
        self.step(self.batch)
        for _ in range(repeats):
            with self.clock.part("step"):
                for part in self.batches:
                    self.step(part)

    @property
    def seconds(self) -> float:
        """Median seconds per batch, with all its parts."""
        return median(self.clock.parts["step"])


def allocated(device: torch.device) -> int:
    """Bytes of the device's memory that tensors use."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()  # tensors without memory may wait for it, which have no address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inspecting some objects raises warnings
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.device.type == "cpu"}.values())


def growth(function: Callable[[], object]) -> int:
    """Largest growth of the CPU allocator's memory, in bytes, while a function runs."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    by_time = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in by_time), default=0)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock = Clock(device)
    for _ in range(12):
        with clock.part("product"):
            a @ b
    return 2 * side**3 / median(clock.parts["product"][2:])


def forward_flop(C: Settings) -> float:
    """Floating-point operations of one network's forward pass for one image."""
    network = build_network(C, pretrained=False).eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, C.image_height, C.image_width, device="meta"))
    return float(counter.get_total_flops())


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the results."""
    args = build_parser().parse_args(argv)
    C = load_config(args.experiment, parse_overrides(args.override))
    for name, value in PUBLISHED.items():
        if getattr(C, name) != value:
            raise UserError(f"C.{name} = {getattr(C, name)}: the published step has {value}; use this value")
    device = local_device(parse_devices(args.devices))
    keep_freed_memory(device)
    torch.manual_seed(0)
    batch = random_batch(C, device, C.batch_size, C.image_height, C.image_width)
    held = allocated(device)
    published = Arrangement(published_step(C, device), batch, device, held)
    held = allocated(device)
    torch.manual_seed(0)
    network = build_network(C, pretrained=False).to(device, memory_format=memory_format(device))
    learner = build_learner(C, network)
    ours = Arrangement(our_step(C, learner), batch, device, held)
    for _ in range(ROUNDS):  # in turn, so that a slowdown of the machine affects both
        published.run(args.repeats)
        ours.run(args.repeats)
    clock = Clock(device)
    for _ in range(args.repeats + 2):
        timed_parts(C, learner, published.batch, clock)  # it keeps the graphs of all losses, as the published step
    seconds = {name: published.parts * median(found[2:]) for name, found in clock.parts.items()}
    amp = AMP_DTYPES[learner.amp] or torch.float32
    rate, pass_flop = matrix_rate(device, amp), C.batch_size * forward_flop(C)
    title = f"{C.this_dir}: {C.batch_size} x {C.image_height} x {C.image_width}, {C.backbone}, {device}, {amp}"
    print_parts(title, seconds, pass_flop, rate)
    print_costs(published, ours, sum(PASSES.values()) * pass_flop, rate)


def print_parts(title: str, seconds: dict[str, float], pass_flop: float, rate: float) -> None:
    """Print the `seconds` of each part of our step, with its share and its part of the `rate` (FLOP/s) of matrices."""
    console, total = open_console(), sum(seconds.values())
    table = Table("part", "seconds", "share", "TFLOP/s", "of matrix rate", title=title)
    for name, spent in seconds.items():
        achieved = PASSES.get(name, 0) * pass_flop / spent
        rates = (f"{achieved / 1e12:.2f}", f"{achieved / rate:.1%}") if achieved else ()
        table.add_row(name, f"{spent:.4f}", f"{spent / total:.1%}", *rates)
    console.print(table)
    console.print(f"pseudo-labels, agreement and losses: {sum(seconds[n] for n in LABELS_AND_LOSSES) / total:.1%}")


def print_costs(published: Arrangement, ours: Arrangement, step_flop: float, rate: float) -> None:
    """Print time and memory of both arrangements; a step has `step_flop` operations, matrix products `rate` FLOP/s."""
    console = open_console()
    table = Table("arrangement", "seconds", "TFLOP/s", "of matrix rate", "peak GiB")
    for name, arrangement in (("published", published), ("ours", ours)):
        cut = f" (in {arrangement.parts} parts)" if arrangement.parts > 1 else ""
        achieved = step_flop / arrangement.seconds
        rates = f"{achieved / 1e12:.2f}", f"{achieved / rate:.1%}"
        table.add_row(name + cut, f"{arrangement.seconds:.4f}", *rates, f"{arrangement.peak / 2**30:.2f}")
    console.print(table)
    speed_up = published.seconds / ours.seconds
    arithmetic = f"{step_flop / 1e12:.2f} TFLOP per step; {rate / 1e12:.1f} TFLOP/s matrix"
    console.print(f"speed-up {speed_up:.2f} x, memory {ours.peak / published.peak:.2f} x; {arithmetic}")
    console.print(STEP)


def build_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="experiment folder; it defines shapes, batch and network")
    parser.add_argument("-d", "--devices", help="0, or cpu")
    add_overrides(parser)
    repeats = f"timed steps in each of {ROUNDS} rounds (default: 5)"
    parser.add_argument("--repeats", type=number("--repeats", 1), default=5, help=repeats)
    return parser


if __name__ == "__main__":
    run(main)
