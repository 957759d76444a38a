"""Estimate the time of a run on this machine from a few steps on random batches and a few samples."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from furnace.datasets.batch import TrainBatch
from furnace.datasets.cache_folder import OFF
from furnace.datasets.dataset import TrainSet
from furnace.datasets.loaders import build_cache, worker_count
from furnace.engine.learner import Learner, build_learner
from furnace.engine.numerics import memory_format
from furnace.methods.build import build_network, described_method
from furnace.utils.settings import Settings

STEPS, STEPS_SECONDS = 3, 5  # timed after an untimed one; fewer if they take longer
PROBE_BATCH, PROBE_SIDES = 2, (64, 128)  # for a CPU, on which a full step can take an hour
SAMPLE_SECONDS, MIN_SAMPLES, MAX_SAMPLES = 2, 2, 40


@dataclass(frozen=True)
class Estimate:
    """Seconds per step on the device, seconds for loading its batch, and number of iterations.

    `parallel`: worker processes load while the device computes; otherwise one waits for the other.
    """

    step: float
    loading: float
    iterations: int
    parallel: bool

    @property
    def seconds(self) -> float:
        """Seconds of all iterations, without evaluation."""
        iteration = max(self.step, self.loading) if self.parallel else self.step + self.loading
        return self.iterations * iteration


def estimate(C: Settings, dataset: TrainSet, device: torch.device) -> Estimate:
    """Measure steps on one device and the loading of samples. Raises torch.OutOfMemoryError."""
    workers = max(1, worker_count(C.num_workers))
    loading = C.batch_size * sample_seconds(C, dataset) / workers
    parallel = C.num_workers > 0 and device.type == "cuda"
    return Estimate(step_seconds(C, device), loading, C.total_iterations, parallel)


def step_seconds(C: Settings, device: torch.device) -> float:
    """Seconds per step without torch.compile; on a CPU extrapolated from smaller steps, linear in pixels."""
    whole = C.batch_size * C.image_height * C.image_width
    probes = [PROBE_BATCH * side**2 for side in PROBE_SIDES]
    if device.type == "cuda" or whole <= probes[-1]:
        learner = random_learner(C, device, C.accumulate)
        return timed_step(learner, random_batch(C, device, C.batch_size, C.image_height, C.image_width))
    learner = random_learner(C, device, accumulate=1)
    small, large = (timed_step(learner, random_batch(C, device, PROBE_BATCH, side, side)) for side in PROBE_SIDES)
    per_pixel = max(large - small, 0) / (probes[1] - probes[0]) or large / probes[1]
    return large + per_pixel * (whole - probes[1])


def random_learner(C: Settings, device: torch.device, accumulate: int) -> Learner:
    """The learner of the settings with random weights, not compiled."""
    network = build_network(C, pretrained=False).to(device, memory_format=memory_format(device))
    return build_learner(C, network, accumulate=accumulate, compiled=False)


def random_batch(C: Settings, device: torch.device, size: int, height: int, width: int) -> TrainBatch:
    """A batch of normalised noise and random labels, with all streams that the method needs."""

    def images() -> torch.Tensor:
        return torch.randn(size, 3, height, width, device=device).contiguous(memory_format=memory_format(device))

    labels = torch.randint(0, C.num_classes, (size, height, width), device=device)
    method = described_method(C)
    if not method.unlabeled:
        return TrainBatch(images(), labels)
    found, maps = {}, (size, 1, height, width)
    streams = 2 if C.cutmix and method.second_stream else 1
    for stream in range(streams):
        found[f"unlabeled_{stream}"] = of_teacher = images()
        found[f"students_{stream}"] = tuple(
            of_teacher if view == method.teacher_view else images() for view in method.students
        )
        if method.needs_valid:
            found[f"valid_{stream}"] = torch.ones(maps, dtype=torch.uint8, device=device)
    if streams > 1:
        found["mask"] = torch.randint(0, 2, maps, dtype=torch.uint8, device=device)
    return TrainBatch(images(), labels, **found)


def timed_step(learner: Learner, batch: TrainBatch) -> float:
    """Median seconds per step."""
    found = []
    while len(found) < 2 or (len(found) <= STEPS and sum(found) < STEPS_SECONDS):
        begin = time.perf_counter()
        learner.step(batch, 0)
        if batch.images.is_cuda:
            torch.cuda.synchronize(batch.images.device)
        found.append(time.perf_counter() - begin)
    return median(found[1:])


def sample_seconds(C: Settings, dataset: TrainSet) -> float:
    """Median CPU seconds per batch position, for all its streams; with a cache, read from a filled one."""
    with TemporaryDirectory() as folder:
        if C.cache != OFF:
            dataset.files = build_cache(C, Path(folder))
        found = []
        begin = time.perf_counter()
        for position in range(min(MAX_SAMPLES, dataset.samples)):
            for _ in range(1 if C.cache == OFF else 3):  # with a cache: decoded, checked, and finally only read
                start = time.process_time()
                dataset[0, position]
                seconds = time.process_time() - start
            found.append(seconds)
            if len(found) >= MIN_SAMPLES and time.perf_counter() - begin > SAMPLE_SECONDS:
                break
    return median(found)
