"""The config.py of an experiment on a user's own images: a recipe for GPUs, and one for CPUs."""

import math
from dataclasses import dataclass

from furnace.tools.own_lists import Data

CROP_STEP = 32
LEAST_ITERATIONS = 200  # of few images: after fewer a network has hardly begun to learn
LEAST_SCALE = 0.25
SNAPSHOTS = 8  # about, of longer runs


@dataclass(frozen=True)
class Scope:
    """Recipe for a type of machine: settings, largest batch, crop and evaluation window, iterations per epoch.

    `scales` of training are shares of the evaluation's scale, which brings the longest side to `side` pixels (None: 1).
    """

    backbone: str
    weights: str
    head_channels: int
    scales: list[float]
    side: int | None
    nepochs: int
    snapshot_iter: int
    batch: int
    crop: int
    window: int
    num_workers: int
    epoch: str


EPOCH = "C.max_samples // C.batch_size"
GPU = Scope(
    backbone="resnet50",
    weights="downloaded once",
    head_channels=256,
    scales=[0.5, 0.75, 1, 1.5, 1.75, 2.0],
    side=None,
    nepochs=40,
    snapshot_iter=5,
    batch=8,
    crop=512,
    window=512,
    num_workers=4,
    epoch=EPOCH,
)
# First results in minutes for images of any size and number: low resolution and short training.
CPU = Scope(
    backbone="tf_efficientnet_lite0",
    weights="from an installed package",
    head_channels=64,
    scales=[0.7, 1, 1.3],
    side=240,
    nepochs=3,
    snapshot_iter=1,
    batch=4,
    crop=96,
    window=256,
    num_workers=1,
    epoch=f"min({EPOCH}, 80)  # 80: for first results",
)
CONFIG = '''"""{name}: images of your own; made by furnace.tools.new_experiment, which can update the lists.

Assign any setting of `python train.py --settings`; settings that are not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data
C.dataset_name = "{name}"
C.dataset_path = {root!r}
C.train_source = f"{{C.volna}}/DATA/{name}/labeled.txt"
C.unsup_source = f"{{C.volna}}/DATA/{name}/unlabeled.txt"
C.eval_source = f"{{C.volna}}/DATA/{name}/val.txt"
C.num_classes = {num_classes}
C.class_names = {class_names}
C.image_height = C.image_width = {crop}
C.train_scale_array = {scales}
C.labeled_ratio = {ratio}  # about 1/labeled_ratio of the images have masks

# Method
C.unsup_weight = 1

# Network
C.backbone = "{scope.backbone}"
C.head_channels = {scope.head_channels}
C.pretrained_model = "imagenet"  # {scope.weights}; None: random weights

# Optimization
C.lr = 0.01
C.batch_size = {batch}
C.nepochs = {nepochs}
C.num_train_imgs = {train}
C.num_unsup_imgs = {unlabeled}
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = {scope.epoch}
C.num_workers = {scope.num_workers}
C.snapshot_iter = {snapshot_iter}
C.image_iter = 50

# Evaluation
C.eval_crop_size = {window}
C.eval_scale_array = [{scale:g}]
'''


def config_text(name: str, data: Data, scope: Scope) -> str:
    """The config.py of an experiment."""
    masks = len(data.train) + len(data.val)
    total = masks + len(data.unlabeled)
    batch = min(scope.batch, len(data.train), len(data.unlabeled))
    scale = scale_of(data, scope)
    height, width = (side * scale for side in data.size)
    nepochs = max(scope.nepochs, math.ceil(LEAST_ITERATIONS / (max(len(data.train), len(data.unlabeled)) // batch)))
    return CONFIG.format(
        scope=scope,
        name=name,
        root=str(data.root),
        num_classes=data.num_classes,
        class_names=data.names,
        scale=scale,
        scales=[round(scale * share, 3) for share in scope.scales],
        crop=max(min(int(min(height, width)) // CROP_STEP * CROP_STEP, scope.crop), CROP_STEP),
        ratio=max(total // masks, 1),
        batch=batch,
        nepochs=nepochs,
        snapshot_iter=max(scope.snapshot_iter, nepochs // SNAPSHOTS),
        train=len(data.train),
        unlabeled=len(data.unlabeled),
        window=min(math.ceil(max(height, width)), scope.window),
    )


def scale_of(data: Data, scope: Scope) -> float:
    """The evaluation's scale: images become smaller on slow machines, but not larger and not without details."""
    return min(1, max(round(scope.side / max(data.size), 2), LEAST_SCALE)) if scope.side else 1
