"""Check the resources for an experiment: weights, space for the cache, and time."""

from pathlib import Path

import torch

from furnace.base_model.pretrained import IMAGENET, imagenet_file
from furnace.checks.estimate import estimate
from furnace.checks.findings import Finding, Level
from furnace.datasets.cache import RESERVE, Cache
from furnace.datasets.cache_folder import OFF, free_bytes
from furnace.datasets.loaders import build_cache, build_files
from furnace.engine.faults import out_of_memory, smaller_steps
from furnace.engine.numerics import device_name
from furnace.engine.warm_start import begin_network
from furnace.methods.build import build_data, build_network, described_method, encoders
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import byte_size, counted, duration

MEMORY, TIME, WEIGHTS = "memory", "training time", "pretrained weights"


def check_weights(C: Settings) -> Finding:
    """Check that the weights from which training starts exist and match; nothing is downloaded."""
    try:
        if C.warm_start:
            return Finding(Level.OK, WEIGHTS, begin_network(C, described_method(C), None)[0].weights_report)
        files = [imagenet_file(name) for name, source in zip(*encoders(C), strict=True) if source == IMAGENET]
        if missing := [file for file in files if not file.is_file()]:
            return Finding(Level.NOTE, WEIGHTS, f"{missing[0]} does not exist yet", "the first start downloads it")
        report = build_network(C).weights_report.removeprefix("encoder weights: ")
    except UserError as error:
        return Finding(Level.PROBLEM, WEIGHTS, str(error))
    if C.pretrained_model is None:
        return Finding(Level.NOTE, WEIGHTS, report, 'scores will be far lower than with "imagenet" or a v1c file')
    if "plain stem" in report and any("v1c" in Path(str(source)).name for _, source in zip(*encoders(C), strict=True)):
        return Finding(Level.NOTE, WEIGHTS, report, "the published v1c weights have a deep stem; scores will differ")
    return Finding(Level.OK, WEIGHTS, report)


def check_cache(C: Settings, images: list[Path], labels: list[Path]) -> Finding:
    """Check the disk space for the decoded `images` and `labels`."""
    try:
        files = build_files(C)
    except UserError as error:
        return Finding(Level.PROBLEM, "cache", str(error))
    if not isinstance(files, Cache):
        root = Path(C.dataset_path)
        needed = build_cache(C, root / "cache").missing_bytes(images, labels)
        free = byte_size(free_bytes(root))
        text = f"C.cache = {OFF}: {byte_size(needed)} would be needed, {free} are free on the data's disk"
        return Finding(Level.OK, "cache", text)
    needed, free = files.missing_bytes(images, labels), free_bytes(files.folder)
    text = f"C.cache = {C.cache}: {byte_size(needed)} still needed, {byte_size(free)} free in {files.folder}"
    if needed and needed + RESERVE > free:
        return Finding(Level.PROBLEM, "cache", text, f"make room, choose another folder, or set C.cache = {OFF}")
    return Finding(Level.OK, "cache", text)


def check_time(C: Settings, device: torch.device) -> list[Finding]:
    """Count the iterations of the recipe and estimate their time on this machine."""
    epochs, steps = counted(C.nepochs, "epoch"), counted(C.niters_per_epoch, "iteration")
    recipe = Finding(Level.OK, "recipe", f"{epochs} of {steps}, {C.total_iterations:,} in all")
    try:
        found = estimate(C, build_data(C), device)
    except UserError as error:
        return [recipe, Finding(Level.PROBLEM, TIME, f"can't be measured: {error}")]
    except torch.OutOfMemoryError:
        return [recipe, Finding(Level.PROBLEM, MEMORY, out_of_memory(C, smaller_steps, on_gpu=True))]
    text = (
        f"about {duration(found.seconds)} on {device_name(device)}, without evaluation; per iteration "
        f"{duration(found.step)} of computing and {duration(found.loading)} of loading"
    )
    if found.parallel and found.loading > found.step:
        advice = f"{device} waits for the loader: raise C.num_workers, or set C.cache"
        return [recipe, Finding(Level.NOTE, TIME, text, advice)]
    return [recipe, Finding(Level.OK, TIME, text)]
