"""Snapshots as a run writes them, without training."""

import os
from pathlib import Path

import torch
from torch import nn

from furnace.base_model.network import Network
from furnace.engine.snapshot_folder import LAST
from furnace.engine.snapshots import Snapshot, save_snapshot
from furnace.methods.build import build_network
from furnace.utils.settings import Settings

EPOCH = 1
NARROW = {"head_channels": 8}
SIDE = 40  # side of the evaluation window; all tiny images fit into it


def write_lively(C: Settings, path: Path) -> Path:
    """Write a snapshot for the settings, with weights that predict every class for some pixels."""
    torch.manual_seed(0)
    network = build_network(C, pretrained=False)
    images = torch.randn(4, 3, 40, 40)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # the running statistics become those of the images
    with torch.no_grad():
        for number, branch in enumerate(network.branches, 1):
            network.train()(images, number)
            logits = network.eval()(images, number)
            spread = logits.std((0, 2, 3))
            branch.classifier.bias.copy_((branch.classifier.bias - logits.mean((0, 2, 3))) / spread)
            branch.classifier.weight.div_(spread.view(-1, 1, 1, 1))
    iteration = (EPOCH + 1) * C.niters_per_epoch
    save_snapshot(path, Snapshot(network.state_dict(), [], EPOCH, iteration, C.model_dump()))
    return path


def place(snapshot: Path, C: Settings, *names: str) -> Path:
    """Link a snapshot under each name into the folder that a run of the settings uses; returns this folder."""
    folder = Path(C.snapshot_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (f"epoch-{EPOCH}.pth", LAST):
        os.link(snapshot, folder / name)
    return folder


def load_plain(snapshot: Path, C: Settings) -> Network:
    """The network of a snapshot in eval mode, loaded with PyTorch alone."""
    network = build_network(C, pretrained=False)
    network.load_state_dict(torch.load(snapshot, weights_only=True)["model"])
    return network.eval()
