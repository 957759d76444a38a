"""Run the commands of the pages as written, in a copy of the checkout, with small images and networks.

These are the tutorial on one's own images, and the commands of exp_voc.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, TINY_RUN
from tests.inference.test_videos import write_video
from tests.test_docs import PAGES, SCRIPTS, blocks, commands
from tests.tiny_data import write_image, write_palette_label, write_voc
from tests.tiny_run import NARROW, SIDE

pytestmark = pytest.mark.slow

TUTORIAL = REPOSITORY / "docs" / "own-dataset.md"
TUTORIAL_CLASSES = 11
# As many epochs as exp_voc has with 1/8 of the labels: the pages name some of them.
SMALL = TINY_RUN | NARROW | {"backbone": "resnet18", "nepochs": 34, "niters_per_epoch": 1, "eval_crop_size": SIDE}
FENCED = {
    command.words: command for page in PAGES for command in commands(page) if command.folder == "exp_voc"
}.values()


def copy_checkout(folder: Path) -> Path:
    for name in ("furnace", "exp_toy", "exp_voc"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run_shell(script: str, folder: Path) -> str:
    """Run lines of bash up to the first failure; returns their output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_tutorial(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(24):
        label = rng.integers(0, TUTORIAL_CLASSES, (6, 8)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        name = f"frame_{25 * index:04d}.png"
        write_palette_label(checkout / "DATA/camvid/train/label" / name, label)
        write_image(checkout / "DATA/camvid/train/image" / name, np.stack([20 * label] * 3, axis=-1))
    run_shell("\n".join(blocks(TUTORIAL)), checkout)
    log = checkout / "log" / "exp_mine"
    assert (log / "report.html").is_file() and (log / "figures.jsonl").is_file()
    assert {path.stem for path in (log / "predict" / "overlay").iterdir()} >= {"frame_0100", "frame_0500"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with exp_voc trained on the tiny data set, and with the inputs that the pages name."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    lists = write_voc(checkout) / "subset_train_aug"
    for name in ("labeled", "unlabeled"):
        shutil.copy(lists / f"train_aug_{name}_1-8.txt", lists / f"train_aug_{name}_1-16.txt")
    experiment = checkout / "exp_voc"
    with open(experiment / "config.py", "a", encoding="utf-8") as config:
        config.writelines(f"C.{name} = {value!r}\n" for name, value in SMALL.items())
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for place in ("exp_voc/photo.jpg", "exp_voc/photos/one.jpg", "more/two.png"):
        write_image(checkout / place, picture)
    write_video(experiment / "ride.mp4", frames=3)
    run_shell("python train.py -d cpu", experiment)
    return checkout


@pytest.mark.parametrize("command", FENCED, ids=str)
def test_command_of_an_experiment(command, trained: Path) -> None:
    words = command.words
    if words[0] == "torchrun" or ("-d" in words and words[words.index("-d") + 1] != "cpu"):
        pytest.skip("needs GPUs")
    if {"pretrained_model=imagenet", "config_modern.py"} & set(words):
        pytest.skip("needs pretrained weights")
    assert words[1] in SCRIPTS
    log, kept = trained / "log", trained / "kept"
    starts = words[1] == "train.py" and not {"-c", "--dry-run", "--settings", "--help"} & set(words)
    if starts:  # training refuses a folder with snapshots
        log.rename(kept)
    quoted = " ".join(f"'{word}'" for word in words)
    try:
        run_shell(quoted, trained / command.folder)
    finally:
        if starts:
            shutil.rmtree(log, ignore_errors=True)
            kept.rename(log)
