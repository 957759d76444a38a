"""Hostile input: it succeeds or gives one clear error, fast, in little memory, and without touching other files.

Property tests of lists, images, device strings and epoch ranges are beside their modules. This file has inputs that
pass through several modules, and inputs that could take much time or memory or touch other files.
"""

import os
import random
import signal
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from furnace.datasets import reading
from furnace.datasets.reading import MAX_FILE_BYTES, MAX_PIXELS, decode_label, read_image
from furnace.datasets.splits import read_lines
from furnace.engine.continuing import load_optimizer
from furnace.engine.devices import parse_devices
from furnace.engine.snapshot_folder import find_snapshots
from furnace.engine.snapshots import Snapshot, load_network, load_snapshot, save_snapshot
from furnace.methods.settings import all_settings, load_config
from furnace.utils.config import parse_overrides
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY
from tests.engine.small_snapshots import trained

SOON_SECONDS = 20
LITTLE_KIB = 2**20
EXPERIMENTS = ("exp_voc", "exp_city", "exp_toy")
NAMES = sorted(all_settings().model_fields)
NUMBERS = ["0", "-1", "1", "1e400", "nan", "inf", "-inf", "9" * 30, "1e9", "0x10", "٣", "1_0", "[]", "[1,", "None", ""]
TEXTS = [
    "\0",
    "../../..",
    "/",
    "/dev/zero",
    "a" * 5000,
    "{}",
    "%s",
    "${HOME}",
    "; rm -rf .",
    "true",
    "\n",
    "\ud800",
    "é",
]


@contextmanager
def soon_and_small() -> Iterator[None]:
    """Fail if the block takes too long or too much memory."""
    previous = signal.signal(signal.SIGALRM, hangs)
    before = peak_kib()
    signal.alarm(SOON_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert peak_kib() - before < LITTLE_KIB, "takes too much memory"


def hangs(*_) -> None:
    raise TimeoutError("takes too long")


def peak_kib() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def outcome(attempt: Callable[[], object]) -> str | None:
    """The message of a UserError, or None for a success; anything else fails the test."""
    with soon_and_small():
        try:
            attempt()
        except UserError as error:
            message = str(error)
            assert 10 < len(message) < 7000
            assert "Traceback" not in message
            return message
    return None


SETTING_NAMES = st.sampled_from(NAMES) | st.text(string.printable, max_size=12)
VALUES = st.sampled_from(NUMBERS + TEXTS) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)


@settings(max_examples=150)
@given(st.sampled_from(EXPERIMENTS), st.dictionaries(SETTING_NAMES, VALUES, min_size=1, max_size=4))
def test_any_overrides_are_taken_or_refused_by_name(experiment: str, overrides: dict[str, str]) -> None:
    pairs = [f"{name}={value}" for name, value in overrides.items()]
    message = outcome(lambda: load_config(REPOSITORY / experiment, parse_overrides(pairs)))
    if message and "not of the form" not in message:
        starts = tuple(f"-o {pair.partition('=')[0].strip()}=" for pair in pairs)
        assert "config.py" in message or message.startswith(starts)


# Numbers that may be huge: neither memory nor a type of limited range depends on them.
UNLIMITED = {
    "seed", "labeled_ratio", "num_train_imgs", "num_unsup_imgs", "max_samples", "ohem_min_kept", "lr", "lr_power",
    "lr_backbone", "unsup_weight", "weight_decay", "bn_eps", "autosave_minutes", "keep_snapshots", "max_nan_skips",
    "snapshot_iter", "record_info_iter", "image_iter", "display_iter",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_huge_number_is_kept_or_refused_by_name(name: str) -> None:
    def load() -> None:
        taken = getattr(load_config(REPOSITORY / "exp_voc", {name: "1e15" if name == "lr" else str(10**15)}), name)
        assert taken == 10**15 or "1000000000000000" in str(taken)
        assert name in UNLIMITED or isinstance(taken, str | tuple), "memory would depend on it"

    message = outcome(load)
    # If config.py computes another setting from this one, that setting is refused with its line.
    assert message is None or message.startswith((f"-o {name}=", f"{REPOSITORY}/exp_voc/config.py, line "))


@given(st.text("0123456789-,.* lastpthcudx\0", max_size=14) | st.text(max_size=14))
def test_any_epochs_and_devices_are_found_or_refused(text: str) -> None:
    outcome(lambda: find_snapshots(text, REPOSITORY / "tests"))
    outcome(lambda: parse_devices(text))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    network, optimizer = trained()
    path = tmp_path_factory.mktemp("sound") / "epoch-1.pth"
    save_snapshot(path, Snapshot(network.state_dict(), [optimizer.state_dict()], 1, 8, {"num_classes": 3}))
    return path.read_bytes()


def take_over(path: Path) -> None:
    """Do all that training and evaluation do with a snapshot."""
    network, optimizer = trained()
    snapshot = load_snapshot(path)
    load_network(network, snapshot)
    for state in snapshot.optimizers:
        load_optimizer(optimizer, state, path)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_damaged_snapshot_is_refused_with_the_name_of_its_file(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, rng: random.Random, kind: int
) -> None:
    content = bytearray(sound)
    if kind == 0:
        content = content[: rng.randrange(len(content))]
    elif kind == 1:
        for _ in range(rng.randrange(1, 9)):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    elif kind == 2:
        start = rng.randrange(len(content))
        content[start : start + rng.randrange(1, 600)] = bytes(rng.randrange(600))
    else:
        content[rng.randrange(len(content)) :] = rng.randbytes(rng.randrange(1, 300))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    message = outcome(lambda: take_over(path))
    assert message is None or message.startswith(str(path))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(torch.ones(2))
PARTS = ["model", "optimizer_1", "epoch", "iteration", "settings"]
KEYS = st.sampled_from([*PARTS, "state", "param_groups", "params"]) | st.integers(-2, 4)
CONTENT = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from([*PARTS, "scaler"]), CONTENT))
def test_any_plain_content_is_a_snapshot_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    network, optimizer = trained()
    path = tmp_path_factory.getbasetemp() / "plain.pth"
    sound = {"model": network.state_dict(), "optimizer_1": optimizer.state_dict(), "epoch": 0, "iteration": 4}
    torch.save({**sound, "settings": {"num_classes": 3}, **changes}, path)
    message = outcome(lambda: take_over(path))
    assert message is None or message.startswith(str(path))


MAKE = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
    "huge": lambda path: (path.touch(), os.truncate(path, MAX_FILE_BYTES + 1)),
    "bomb": lambda path: write_bomb(path),
    "script": lambda path: path.write_bytes(EPS),
}


@pytest.mark.parametrize(
    ("read", "what"),
    [*product((read_image, decode_label), MAKE), *product([read_lines], ("pipe", "device", "folder", "loop", "huge"))],
)
def test_fake_images_and_lists_are_refused_at_once(tmp_path: Path, read: Callable, what: str) -> None:
    path = tmp_path / "file.png"
    MAKE[what](path)
    message = outcome(lambda: read(path))
    assert message.startswith(f"{path}: ")
    assert "more than the limit of" in message or read is read_lines or what not in ("huge", "bomb")


# PostScript: Pillow would start an interpreter for it.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(marker) (w) file\n%%EOF\n"


def write_bomb(path: Path) -> None:
    """Write a PNG of a few hundred kilobytes with more pixels than the limit."""
    side = int(MAX_PIXELS**0.5) + 1
    assert side * side > MAX_PIXELS
    Image.fromarray(np.zeros((side, side), dtype=bool)).save(path)
    assert path.stat().st_size < 2**21


def test_no_supported_format_starts_a_program() -> None:
    assert not set(reading.FORMATS) & {"EPS", "PDF", "FPX", "MIC", "WMF", "MPEG", "GBR"}
