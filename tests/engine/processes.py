"""Functions that the processes of the distributed tests run; in a module, because spawned processes import them."""

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from torch import Tensor, nn

from furnace.datasets.batch import TrainBatch
from furnace.engine.distributed import CPU, start, stop, whole_batch
from furnace.engine.faults import SkippedImages
from furnace.engine.learner import Learner
from furnace.engine.monitor import open_log
from furnace.inference.evaluator import Evaluator
from furnace.methods.build import build_criterion
from furnace.methods.cpcl import CPCL
from furnace.methods.settings import load_config
from furnace.methods.supervised import Supervised
from furnace.seg_opr.losses import OhemCrossEntropy
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY

BATCH, CLASSES, SIZE, STEPS = 8, 5, (33, 41), 10


def in_processes(count: int, function, *arguments, wait: float | None = None) -> None:
    """Run `function(rank, *arguments)` in `count` processes that form one group, over gloo.

    They are copies of one process that has imported this module, so that they start at once. Collectives may `wait` for
    so many seconds; None: the default.
    """
    mp.set_forkserver_preload([__name__])
    mp.start_processes(
        _enter, args=(count, free_port(), wait, function, arguments), nprocs=count, start_method="forkserver"
    )


def _enter(rank: int, count: int, port: int, wait: float | None, function, arguments) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count)
    )
    torch.set_num_threads(1)
    if wait is not None:
        dist.distributed_c10d._get_default_timeout = lambda _: timedelta(seconds=wait)
    start(CPU)
    function(rank, *arguments)
    stop()


def free_port() -> int:
    """A port that is free at this moment."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    return store.port


class GroupNormNetwork(nn.Module):
    """Two small networks with those members of `Network` that a method needs.

    Their norms use each image alone: gloo can't synchronise BatchNorm.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        for number in (1, 2):
            layers = (
                nn.Conv2d(3, 8, 5, stride=4, padding=2),
                nn.GroupNorm(2, 8),
                nn.ReLU(),
                nn.Conv2d(8, num_classes, 1),
            )
            self.add_module(f"branch{number}", nn.Sequential(*layers))

    @property
    def branches(self) -> list[nn.Module]:
        return list(self.children())

    def logits(self, images: Tensor, branch: int = 1, factors: None = None) -> Tensor:
        assert factors is None, "there is no encoder to lose channels of"
        return self.branches[branch - 1](images)


def whole_batches() -> list[TrainBatch]:
    """The batches of all steps, the same in every process."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(STEPS):
        images = [torch.from_numpy(rng.normal(size=(BATCH, 3, *SIZE))) for _ in range(3)]
        labels = torch.from_numpy(rng.integers(0, CLASSES, (BATCH, *SIZE)))
        # Unequal numbers of ignored pixels, so that the normalisers of the shares differ.
        labels[torch.arange(BATCH)[:, None, None] * 5 > torch.arange(SIZE[0])[None, :, None] + labels * 0] = 255
        mask = torch.from_numpy(rng.integers(0, 2, (BATCH, 1, *SIZE)))
        batches.append(TrainBatch(images[0], labels, images[1], images[2], mask))
    return batches


def train_steps(rank: int, processes: int, folder: Path) -> None:
    """Ten CPCL steps with OHEM on this process's share of each batch; the first process saves scalars and weights."""
    torch.manual_seed(0)
    network = GroupNormNetwork(CLASSES).double()
    whole = whole_batch()
    criterion = OhemCrossEntropy(thresh=0.2, min_kept=BATCH * 500, whole=whole)
    learner = Learner(
        network,
        CPCL(criterion, CPCL.Settings(unsup_weight=1.5), whole),
        total_iterations=STEPS,
        lr=0.01,
        optimizer={"weight_decay": 1e-4},
    )
    history = []
    for iteration, batch in enumerate(whole_batches()):
        scalars = learner.step(batch.split(processes)[rank], iteration).scalars
        history.append({name: whole.mean(value.double()).item() for name, value in scalars.items()})
    if rank == 0:
        torch.save((history, network.state_dict()), folder / f"{processes}.pth")


def evaluate_share(rank: int, C: Settings, snapshot: str, folder: Path) -> None:
    """Evaluate this process's share of the images; the first process saves the counts and the scores per image."""
    (result,) = Evaluator(C, CPU).run(snapshot)
    if rank == 0:
        torch.save((result.values["confusion"], result.per_image), folder / "result.pth")


def report_skipped(rank: int, folder: Path) -> None:
    """Report one skipped image per process and one common to all; only the first process has a log."""
    if rank == 0:
        open_log(folder, "log", Console(quiet=True))
    skipped = SkippedImages()
    skipped.note([f"own-{rank}.png: damaged", "shared.png: damaged"])
    skipped.report()


def supervised_gradients(rank: int, accumulate: int, folder: Path, alone: bool = False) -> None:
    """Save the gradients of a supervised step without ignored pixels, on this process's share of a batch or on all."""
    torch.manual_seed(0)
    batch = whole_batches()[0]
    batch = TrainBatch(batch.images, batch.labels % CLASSES)
    network = GroupNormNetwork(CLASSES).double()
    criterion = build_criterion(load_config(REPOSITORY / "exp_voc", {"num_classes": str(CLASSES)}))
    learner = Learner(network, Supervised(criterion.double()), total_iterations=9, lr=0.1, accumulate=accumulate)
    learner.step(batch if alone else batch.split(2)[rank], 0)
    if rank == 0:
        name = "alone" if alone else "apart"
        torch.save([parameter.grad for parameter in network.branches[0].parameters()], folder / f"{name}.pth")
