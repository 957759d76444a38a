"""The table that says, before a run starts, what it will do."""

import torch
from rich.table import Table

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainSet
from furnace.engine.distributed import world_size
from furnace.engine.numerics import chosen_amp, chosen_compile, device_name
from furnace.engine.record import describe_lists
from furnace.utils.settings import Settings

PRECISIONS = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast, scaled loss", "off": "float32"}


def recipe_table(C: Settings, dataset: TrainSet, network: Network, device: torch.device, start_iteration: int) -> Table:
    """The start-up table."""
    table = Table(title=f"{C.this_dir}: {C.method} on {C.dataset_name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, entry in describe_lists(C, dataset).items():
        table.add_row(name, f"{entry['images']} images, {entry['path']}")
    total = C.nepochs * C.niters_per_epoch
    table.add_row("epochs", f"{C.nepochs} of {C.niters_per_epoch} iterations, {total} in all")
    if start_iteration:
        table.add_row("continues", f"at iteration {start_iteration}, epoch {start_iteration // C.niters_per_epoch}")
    streams = 0 if dataset.unlabeled is None else 2 if C.cutmix else 1
    unlabeled = f" + {streams} x {C.batch_size} unlabelled" if streams else ""
    table.add_row("batch", f"{C.batch_size} labelled{unlabeled}")
    for line in describe_division(C, device, world_size()):
        table.add_row("", line)
    table.add_row(
        "crop", f"{C.image_height} x {C.image_width}, scales {', '.join(f'{s:g}' for s in C.train_scale_array)}"
    )
    encoder = f", encoder x {C.lr_backbone:g}" if C.lr_backbone != 1 else ""
    momentum = f", momentum {C.momentum:g}" if C.optimizer == "sgd" else ""
    rate = f"{C.lr:g}{encoder}, poly {C.lr_power:g}{momentum}, decay {C.weight_decay:g}"
    table.add_row("optimizer", f"{C.optimizer}, learning rate {rate}")
    loss = f"OHEM {C.ohem_thresh:g}, {C.ohem_min_kept} pixels per image" if C.ohem else "mean cross entropy"
    table.add_row("losses", loss + (f"; unsupervised x {C.unsup_weight:g}" if streams else ""))
    parameters = sum(p.numel() for p in network.parameters())
    table.add_row("network", f"{len(network.branches)} x DeepLabv3+, {C.backbone}, {parameters / 1e6:.1f} M parameters")
    table.add_row("", network.weights_report)
    processes = world_size()
    table.add_row("device", f"{device_name(device)}" + (f", {processes} processes" if processes > 1 else ""))
    compiled = ", compiled" if chosen_compile(C.compile, device, C.sync_bn and processes > 1) else ""
    table.add_row("precision", PRECISIONS[chosen_amp(C.amp, device)] + compiled)
    table.add_row("seed", str(C.seed))
    table.add_row("snapshots", C.snapshot_dir)
    return table


def describe_division(C: Settings, device: torch.device, processes: int) -> list[str]:
    """How a batch is divided among devices and in time, and what that changes; nothing where it is not."""
    if processes == C.accumulate == 1:
        return []
    together = C.sync_bn and device.type == "cuda"
    images = C.batch_size // processes // C.accumulate
    parts = f", in {C.accumulate} parts of {images}" if C.accumulate > 1 else ""
    lines = [f"{C.batch_size // processes} images per device{parts}"]
    seen = images * (processes if together else 1)
    apart = "; saved are the first process's statistics" if processes > 1 and not together else ""
    lines.append(f"BatchNorm sees {seen} of {C.batch_size} images at a time{apart}")
    if C.accumulate > 1:
        lines.append(f"agreement, OHEM and normalisers are those of {images * processes} images")
    return lines
