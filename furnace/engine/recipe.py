"""The start-up table of a run, which says what will happen."""

import torch

from furnace.base_model.network import Network
from furnace.datasets.dataset import TrainSet
from furnace.engine.compilation import OFF, chosen_compile, describe_compilation
from furnace.engine.distributed import world_size
from furnace.engine.identity import learned_lists
from furnace.engine.numerics import choose_amp, device_name
from furnace.utils.settings import Settings
from furnace.utils.terminal import Table
from furnace.utils.wording import LISTS

PRECISIONS = {"bf16": "bfloat16 autocast", "fp16": "float16 autocast, scaled loss", "off": "float32"}


def recipe_table(C: Settings, dataset: TrainSet, network: Network, device: torch.device, start_iteration: int) -> Table:
    """The start-up table of a run."""
    table = Table(title=f"{C.this_dir}: {C.method} on {C.dataset_name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, (path, samples) in learned_lists(C, dataset).items():
        table.add_row(LISTS[name], f"{len(samples)} images, {path}")
    table.add_row("epochs", f"{C.nepochs} of {C.niters_per_epoch} iterations, {C.total_iterations} in total")
    if start_iteration:
        table.add_row("continues", f"at iteration {start_iteration}, epoch {start_iteration // C.niters_per_epoch}")
    streams = 0 if dataset.unlabeled is None else 2 if dataset.masks else 1
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
    table.add_row(
        "network", f"{len(network.branches)} x {C.decoder}, {C.backbone}, {parameters / 1e6:.1f} M parameters"
    )
    table.add_row("", network.weights_report)
    processes = world_size()
    table.add_row("device", f"{device_name(device)}" + (f", {processes} processes" if processes > 1 else ""))
    amp, reason = choose_amp(C.amp, device, network)
    recomputed = ", encoder's blocks recomputed" if C.checkpoint else ""
    table.add_row("precision", PRECISIONS[amp] + (f" ({reason})" if reason else "") + recomputed)
    if (chosen := chosen_compile(C, device)) != OFF:
        table.add_row("compiled", describe_compilation(chosen))
    table.add_row("seed", str(C.seed))
    table.add_row("snapshots", C.snapshot_dir)
    return table


def describe_division(C: Settings, device: torch.device, processes: int) -> list[str]:
    """Lines about a batch that is split among devices or into parts; empty if it is not split."""
    if processes == C.accumulate == 1:
        return []
    together = C.sync_bn and device.type == "cuda"
    images = C.batch_size // processes // C.accumulate
    parts = f", in {C.accumulate} parts of {images}" if C.accumulate > 1 else ""
    lines = [f"{C.batch_size // processes} images per device{parts}"]
    seen = images * (processes if together else 1)
    apart = "; running statistics are averaged over processes" if processes > 1 and not together else ""
    lines.append(f"BatchNorm sees {seen} of {C.batch_size} images at a time{apart}")
    if C.accumulate > 1:
        lines.append(f"agreement, OHEM and normalisers use {images * processes} images")
    return lines
