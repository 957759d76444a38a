"""Snapshots of a network with very few weights."""

import os
from pathlib import Path

import torch
from torch import nn

from furnace.engine.snapshots import Snapshot, save_snapshot

SETTINGS = {"num_classes": 3, "backbone": "resnet18"}


class Small(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


def trained(classes: int = 3) -> tuple[Small, torch.optim.SGD]:
    """A network after one step, so that its optimizer has momentum."""
    torch.manual_seed(0)
    network = Small(classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.branch1(torch.randn(2, 3, 4, 4)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def snapshot_of(network: Small, optimizer: torch.optim.SGD, iteration: int = 12, **changes) -> Snapshot:
    content = {"model": network.state_dict(), "optimizers": [optimizer.state_dict()], "epoch": 3}
    return Snapshot(**{**content, "iteration": iteration, "settings": SETTINGS, **changes})


def save_at(path: Path, iteration: int, age: int) -> Path:
    """Save a snapshot whose last change was `age` seconds ago; returns its path."""
    save_snapshot(path, snapshot_of(*trained(), iteration=iteration))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path
