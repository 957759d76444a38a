"""Whatever users, disks or strangers hand in: a success or one clear error, soon, in little memory, nothing outside.

Lists, images, device strings and epoch ranges have property tests of their own beside their modules; here are the
inputs that go through several of them, and those that would take time, memory or files that nobody offered.
"""

import io
import os
import pickle
import random
import signal
import string
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from furnace.datasets import reading
from furnace.datasets.archives import open_source
from furnace.datasets.reading import MAX_FILE_BYTES, MAX_PIXELS, decode_label, read_image
from furnace.datasets.splits import read_lines
from furnace.engine.continuing import load_optimizer
from furnace.engine.distributed import parse_devices
from furnace.engine.snapshot_folder import find_snapshots
from furnace.engine.snapshots import Snapshot, load_network, load_snapshot, save_snapshot
from furnace.methods.settings import load_config
from furnace.tools import prepare_voc
from furnace.utils.config import parse_overrides
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.weights import read_state_dict
from tests.conftest import REPOSITORY
from tests.engine.small_snapshots import Small, trained

SOON_SECONDS = 20
LITTLE_KIB = 2**20
EXPERIMENTS = ("exp_voc", "exp_city", "exp_toy")
NAMES = sorted(Settings.model_fields)
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
    """Fail if the block takes long or much memory."""

    def hangs(*_) -> None:
        raise TimeoutError("takes too long")

    previous = signal.signal(signal.SIGALRM, hangs)
    before = peak_kib()
    signal.alarm(SOON_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert peak_kib() - before < LITTLE_KIB, "takes too much memory"


def peak_kib() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def outcome(attempt: Callable[[], object]) -> str | None:
    """The one line of a UserError, None for a success; anything else fails the test."""
    with soon_and_small():
        try:
            attempt()
        except UserError as error:
            message = str(error)
            assert 10 < len(message) < 7000
            assert "Traceback" not in message
            return message
    return None


# Settings


@settings(max_examples=150)
@given(
    st.sampled_from(EXPERIMENTS),
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(string.printable, max_size=12),
        st.sampled_from(NUMBERS + TEXTS) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str),
        min_size=1,
        max_size=4,
    ),
)
def test_any_overrides_are_taken_or_refused_by_name(experiment: str, overrides: dict[str, str]) -> None:
    pairs = [f"{name}={value}" for name, value in overrides.items()]
    message = outcome(lambda: load_config(REPOSITORY / experiment, parse_overrides(pairs)))
    if message and "not of the form" not in message:
        assert "config.py" in message or any(message.startswith(f"-o {name.strip()}=") for name in overrides)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_a_setting_is_beyond_what_a_machine_can_hold(name: str) -> None:
    """One with no limit is none that memory depends on."""
    unlimited = {
        "seed", "lr_backbone", "labeled_ratio", "num_train_imgs", "num_unsup_imgs", "max_samples", "ohem_min_kept", "lr", "lr_power",
        "unsup_weight", "weight_decay", "bn_eps", "autosave_minutes", "keep_snapshots", "max_nan_skips",
    }  # fmt: skip
    annotation = str(Settings.model_fields[name].annotation)
    if annotation not in ("<class 'int'>", "<class 'float'>") or name.endswith("_iter") or name in unlimited:
        return
    assert outcome(lambda: load_config(REPOSITORY / "exp_voc", {name: str(10**15)})), name


# Epochs and devices


@given(st.text("0123456789-,.* lastpthcudx\0", max_size=14) | st.text(max_size=14))
def test_any_epochs_and_devices_are_found_or_refused(text: str) -> None:
    outcome(lambda: find_snapshots(text, REPOSITORY / "tests"))
    outcome(lambda: parse_devices(text))


# Snapshots


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    network, optimizer = trained()
    path = tmp_path_factory.mktemp("sound") / "epoch-1.pth"
    save_snapshot(path, Snapshot(network.state_dict(), [optimizer.state_dict()], 1, 8, {"num_classes": 3}))
    return path.read_bytes()


def take_over(path: Path) -> None:
    """All that training and evaluation do with a snapshot."""
    network, optimizer = trained()
    snapshot = load_snapshot(path)
    load_network(network, snapshot, path)
    for state in snapshot.optimizers:
        load_optimizer(optimizer, state, path)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_damaged_snapshot_is_refused_and_its_file_named(
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
ODD_TENSORS = [
    torch.ones(1).expand(10**13),
    torch.ones(2, device="meta"),
    torch.ones(2).to_sparse(),
    torch.ones(2, 2).to_sparse_csr(),
]


def endless() -> dict:
    content: dict = {}
    content["state"] = content
    return content


def doubled(levels: int) -> list:
    """2**levels values in a file of a few bytes."""
    content: list = []
    for _ in range(levels):
        content = [content, content]
    return content


@pytest.mark.parametrize("odd", [*ODD_TENSORS, endless(), doubled(30)], ids=range(6))
@pytest.mark.parametrize("place", ["model", "optimizer_1", "settings"])
def test_what_a_file_does_not_really_hold_is_refused(tmp_path: Path, odd: object, place: str) -> None:
    network, optimizer = trained()
    content = {"model": network.state_dict(), "optimizer_1": optimizer.state_dict(), "settings": {}, "iteration": 4}
    content[place] = {**content[place], "odd": odd}
    torch.save(content, tmp_path / "odd.pth")
    message = outcome(lambda: take_over(tmp_path / "odd.pth"))
    assert message is not None and ("refused" in message or "damaged" in message)


CONTENT = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["model", "optimizer_1", "epoch", "iteration", "settings", "state", "param_groups", "params"]
            )
            | st.integers(-2, 4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(["model", "optimizer_1", "epoch", "iteration", "settings", "scaler"]), CONTENT))
def test_any_plain_content_is_a_snapshot_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    network, optimizer = trained()
    path = tmp_path_factory.getbasetemp() / "plain.pth"
    sound = {"model": network.state_dict(), "optimizer_1": optimizer.state_dict(), "epoch": 0, "iteration": 4}
    torch.save({**sound, "settings": {"num_classes": 3}, **changes}, path)
    message = outcome(lambda: take_over(path))
    assert message is None or message.startswith(str(path))


def test_a_small_file_that_claims_huge_weights_is_refused(tmp_path: Path, sound: bytes) -> None:
    """A compressed member of zeros: PyTorch would unpack it."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(io.BytesIO(sound)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(2**26) if name.endswith("/data/0") else old.read(name))
    assert path.stat().st_size < 2**20
    assert "bomb.pth: damaged" in outcome(lambda: load_snapshot(path))


class Runs:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path, how: int):
        self.marker, self.how = marker, how

    def __reduce__(self):
        code = f"open({str(self.marker)!r}, 'w')"
        return [(open, (str(self.marker), "w")), (eval, (code,)), (os.system, (f"touch '{self.marker}'",))][self.how]


@pytest.mark.parametrize("load", [load_snapshot, read_state_dict])
@pytest.mark.parametrize("how", range(3))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_weights_that_would_run_code_are_refused(tmp_path: Path, load: Callable, how: int, form: str) -> None:
    marker, path = tmp_path / "code_was_run", tmp_path / "third_party.pth"
    content = {"model": {"w": torch.ones(1)}, "epoch": Runs(marker, how)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["epoch"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert outcome(lambda: load(path)).startswith(f"{path}: refused")
    assert not marker.exists()
    pickle.loads(pickle.dumps(content["epoch"]))
    assert marker.exists(), "the trap is broken: plain unpickling doesn't spring it"


# Images and lists that are something else


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", [read_image, decode_label])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "loop", "huge", "bomb", "script"])
def test_what_only_looks_like_an_image_is_refused_at_once(tmp_path: Path, read: Callable, what: str) -> None:
    path = tmp_path / "image.png"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "huge": lambda: (path.touch(), os.truncate(path, MAX_FILE_BYTES + 1)),
        "bomb": lambda: write_bomb(path),
        "script": lambda: path.write_bytes(EPS),
    }
    make[what]()
    message = outcome(lambda: read(path))
    assert message.startswith(f"{path}: ")
    if what in ("huge", "bomb"):
        assert "more than the limit of" in message


# PostScript, for which Pillow would start an interpreter.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(marker) (w) file\n%%EOF\n"


def write_bomb(path: Path) -> None:
    """A PNG of a few hundred kilobytes and more pixels than the limit."""
    side = int(MAX_PIXELS**0.5) + 1
    assert side * side > MAX_PIXELS
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        Image.fromarray(np.zeros((side, side), dtype=bool)).save(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert path.stat().st_size < 2**21


def test_the_formats_that_are_read_start_no_program() -> None:
    assert not set(reading.FORMATS) & {"EPS", "PDF", "FPX", "MIC", "WMF", "MPEG", "GBR"}


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "loop", "huge"])
def test_what_only_looks_like_a_list_is_refused_at_once(tmp_path: Path, what: str) -> None:
    path = tmp_path / "train.txt"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "huge": lambda: (path.touch(), os.truncate(path, 2**40)),
    }
    make[what]()
    assert outcome(lambda: read_lines(path)).startswith(f"{path}: ")


# Archives


def hostile_tar(path: Path, rng: random.Random) -> None:
    """Members whose names lead outside, links, devices, sizes that are lies, and damage."""
    with tarfile.open(path, "w:gz") as tar:
        for number in range(rng.randrange(1, 6)):
            info = tarfile.TarInfo(
                rng.choice(["../out", "/out", "a/../../out", "VOCdevkit/a", "./b", "x" * 300]) + str(number)
            )
            info.type = rng.choice(
                [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
            )
            info.linkname = "/etc/passwd"
            info.size = 10 if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(bytes(10)))
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(3)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content[: rng.randrange(1, len(content) + 1)] if rng.random() < 0.3 else content)


def hostile_zip(path: Path, rng: random.Random) -> None:
    """The same in a zip, the damage mostly in the list at its end, where names, sizes and positions are."""
    names = ["../out", "/out", "a/../../out", "VOCdevkit/a", "./b", "\u00e9" * 99, "a\\..\\out"]
    packings = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(rng.randrange(1, 6)):
            info = zipfile.ZipInfo(rng.choice(names) + str(number))
            info.compress_type = rng.choice(packings)
            info.external_attr = rng.choice([0, 0o100644, 0o120777, 0o20777]) << 16
            archive.writestr(info, b"/etc/passwd" + rng.randbytes(rng.randrange(50)))
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(content)) if rng.random() < 0.3 else rng.randrange(content.find(b"PK\1\2"), len(content))
        content[at] ^= rng.randrange(1, 256)
    path.write_bytes(content[: rng.randrange(1, len(content) + 1)] if rng.random() < 0.1 else content)


def read_all(path: Path) -> None:
    source = open_source(path)
    dict(source.read(source.entries))


@pytest.mark.parametrize("write", [hostile_tar, hostile_zip])
@settings(max_examples=80)
@given(rng=st.randoms(use_true_random=False))
def test_any_archive_is_read_or_refused_and_writes_nothing(
    tmp_path_factory: pytest.TempPathFactory, write: Callable, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = folder / "in" / "VOCtrainval_11-May-2012.tar"
    path.parent.mkdir()
    write(path, rng)
    outcome(lambda: read_all(path))
    target = folder / "target" / "pascal_voc"
    assert outcome(lambda: prepare_voc.main(["--voc", str(path), "--sbd", str(path), "--target", str(target)]))
    written = {item.relative_to(folder).parts[0] for item in folder.rglob("*")}
    assert written <= {"in", "target"}


def test_a_thousand_damaged_zips_are_read_or_refused(tmp_path: Path) -> None:
    """Reading alone is quick enough for the rare ones, such as names that are no text."""
    messages = []
    for seed in range(1000):
        hostile_zip(tmp_path / "a.zip", random.Random(seed))
        messages.append(outcome(lambda: read_all(tmp_path / "a.zip")))
    assert messages.count(None) > 20
    assert any("codec can't decode" in message for message in messages if message)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_the_network_of_these_tests_is_the_one_that_snapshots_fit() -> None:
    """Else every snapshot would be refused, and the tests above would show nothing."""
    assert Small().state_dict().keys() == trained()[0].state_dict().keys()
