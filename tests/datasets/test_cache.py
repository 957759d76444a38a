"""The cache of decoded images: always the files' pixels, despite changed files, damage, full disks and kills."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets import cache as cache_module
from furnace.datasets import cache_folder
from furnace.datasets.cache import RESERVE, Cache
from furnace.datasets.cache_folder import RAM, free_bytes, locate, writing
from furnace.datasets.loaders import build_files, build_train_loader, build_train_set
from furnace.datasets.reading import Files
from furnace.utils.errors import UserError
from furnace.utils.wording import byte_size
from tests.datasets.batches import all_batches, assert_same_batches
from tests.tiny_data import NUM_CLASSES, PALETTE, blocky_label, write_image, write_palette_label

SIZE = (12, 18)
COUNT = 4


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Image files with different contents."""
    rng = np.random.default_rng(0)
    return [
        write_image(tmp_path / "data" / f"{i}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8)) for i in range(COUNT)
    ]


@pytest.fixture
def label(tmp_path: Path) -> Path:
    return write_palette_label(tmp_path / "data" / "label.png", blocky_label(np.random.default_rng(1), SIZE))


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Cache]:
    """`make_cache()`: a new cache over the same folder, as another process would make it."""
    return lambda num_classes=NUM_CLASSES: Cache(num_classes, tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files decoded from now on, in the order of decoding."""
    paths: list[Path] = []
    for name in ("read_image", "read_label"):
        read = getattr(cache_module, name)
        monkeypatch.setattr(cache_module, name, lambda path, *a, read=read: paths.append(path) or read(path, *a))
    return paths


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def assert_pixels(cache: Cache, images: list[Path], labels: Sequence[Path] = ()) -> None:
    """Assert that the cache returns the pixels of the files."""
    files = Files(NUM_CLASSES)
    for path in images:
        np.testing.assert_array_equal(cache.image(path), files.image(path))
    for path in labels:
        np.testing.assert_array_equal(cache.label(path), files.label(path))


def test_pixels_are_those_of_the_files_and_decoded_once(images, label, make_cache, decoded):
    make_cache().prepare([*images, images[0]], [label])
    assert sorted(decoded) == sorted([*images, label])
    cache = make_cache()
    cache.prepare(images, [label])
    assert_pixels(cache, images, [label])
    assert len(decoded) == COUNT + 1


def test_entries_are_not_copied_and_can_not_be_changed(images, make_cache):
    cache = make_cache()
    cache.prepare(images, [])
    pixels = cache.image(images[0])
    assert not pixels.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_a_file_without_an_entry_is_decoded_and_gets_one(images, make_cache, decoded):
    for _ in range(2):
        assert_pixels(make_cache(), images[:1])
    assert decoded == [images[0]]


@pytest.mark.parametrize("prepared", [False, True])
def test_a_changed_file_is_decoded_again_and_replaces_its_entry(images, make_cache, decoded, prepared):
    cache = make_cache()
    cache.prepare(images, [])
    before = images[1].stat()
    # Same size and nearly the same time: the inverse picture, as a PNG without compression.
    content = 255 - Files(NUM_CLASSES).image(images[1])
    write_image(images[1], content, compress_level=0)
    os.utime(images[1], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    decoded.clear()
    again = make_cache()
    if prepared:
        again.prepare(images, [])
        assert decoded == [images[1]]
    np.testing.assert_array_equal(again.image(images[1]), content)
    assert decoded == [images[1]]
    assert len(entries(again.folder)) == COUNT


def flip_pixel(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


DAMAGE = {
    "empty": lambda content: b"",
    "header cut": lambda content: content[:20],
    "pixels cut": lambda content: content[:-1],
    "something appended": lambda content: content + b"\0",
    "one bit of one pixel": flip_pixel,
    "pixels lost": lambda content: content[:64] + bytes(len(content) - 64),
    "not ours": lambda content: b"x" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("prepared", [False, True])
def test_a_damaged_entry_is_detected_and_replaced(images, label, make_cache, decoded, damage, prepared):
    make_cache().prepare(images, [label])
    whole = {path: path.read_bytes() for path in entries(make_cache().folder)}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    cache = make_cache()
    if prepared:
        cache.prepare(images, [label])
    assert_pixels(cache, images, [label])
    assert {path: path.read_bytes() for path in entries(cache.folder)} == whole
    assert len(decoded) == 2 * (COUNT + 1)


def test_entries_of_another_decoder_are_not_used(images, make_cache, decoded, monkeypatch):
    make_cache().prepare(images, [])
    monkeypatch.setattr(cache_module, "DECODER", cache_module.DECODER ^ 1)
    make_cache().prepare(images, [])
    assert sorted(decoded) == sorted([*images, *images])


def test_labels_are_checked_again_for_another_number_of_classes(label, make_cache):
    make_cache().prepare([], [label])
    with pytest.raises(UserError, match=r"label\.png: label value \d+ is neither a class .*num_classes = 5: 0 to 4\)"):
        make_cache(5).label(label)


def test_missing_and_damaged_files_are_named_as_without_a_cache(images, make_cache):
    make_cache().prepare(images, [])
    images[0].unlink()
    images[1].write_bytes(b"damaged")
    for path, complaint in ((images[0], "no such file"), (images[1], "can't be decoded")):
        for use in (make_cache().image, lambda path: make_cache().prepare([path], [])):
            with pytest.raises(UserError, match=rf"{path.name}: {complaint}"):
                use(path)


def test_unreadable_files_are_skipped_if_asked(images, make_cache):
    images[0].write_bytes(b"damaged")
    make_cache().prepare(images, [], skip_unreadable=True)
    assert len(entries(make_cache().folder)) == COUNT - 1


def test_a_run_that_skips_bad_images_does_so_with_a_cache(make_settings, voc_root, tmp_path):
    next((voc_root / "train_aug" / "image").iterdir()).write_bytes(b"damaged")
    expected = all_batches(make_settings(on_bad_image="skip"))
    assert_same_batches(all_batches(make_settings(on_bad_image="skip", cache=str(tmp_path / "cache"))), expected)


def test_too_little_disk_space_is_reported_before_anything_is_written(images, label, make_cache, monkeypatch):
    header = 64
    needed = COUNT * (header + 3 * SIZE[0] * SIZE[1]) + header + SIZE[0] * SIZE[1]
    assert make_cache().missing_bytes(images, [label]) == needed
    monkeypatch.setattr(cache_module, "free_bytes", lambda folder: RESERVE + needed - 1)
    with pytest.raises(UserError, match=rf"cache: C\.cache needs {byte_size(needed)} for 5 files .* C\.cache = off"):
        make_cache().prepare(images, [label])
    assert entries(make_cache().folder) == []
    monkeypatch.setattr(cache_module, "free_bytes", lambda folder: RESERVE + needed)
    make_cache().prepare(images, [label])
    assert make_cache().missing_bytes(images, [label]) == 0
    assert sum(path.stat().st_size for path in entries(make_cache().folder)) == needed


def test_a_folder_that_can_not_be_made_is_named(images, tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(NUM_CLASSES, tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=r"file/cache: can't be written .*name another folder in C\.cache"):
        cache.prepare(images, [])
    assert_pixels(cache, images[:1])


def prepare_and_report(cache: Cache, images: list[Path], decoded: list[Path], barrier, queue) -> None:
    """In a new process: prepare after all processes have started; report the pixels and the number of decoded files."""
    barrier.wait()
    cache.prepare(images, [])
    queue.put((len(decoded), [cache.image(path).tobytes() for path in images]))


def test_processes_that_start_together_decode_every_file_once(images, make_cache, decoded):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    arguments = (make_cache(), images, decoded, barrier, queue)
    processes = [context.Process(target=prepare_and_report, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in reports) == [0, 0, 0, COUNT]
    expected = [Files(NUM_CLASSES).image(path).tobytes() for path in images]
    assert all(found == expected for _, found in reports)


def test_an_entry_is_left_alone_while_another_process_writes(images, make_cache):
    cache = make_cache()
    with writing(cache.folder) as locked:
        assert locked
        assert_pixels(cache, images[:1])
        assert entries(cache.folder) == []
    cache.image(images[0])
    assert len(entries(cache.folder)) == 1


@pytest.fixture
def memory(tmp_path: Path, monkeypatch) -> Path:
    """A folder that replaces the file system in memory."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(cache_folder, "MEMORY", folder)
    return folder


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("where", ["folder", RAM])
def test_a_run_sees_the_same_batches_with_a_cache(make_settings, memory, tmp_path, where, num_workers):
    setting = RAM if where == RAM else str(tmp_path / "cache")
    found = all_batches(make_settings(cache=setting, num_workers=num_workers))
    assert_same_batches(found, all_batches(make_settings()))


def test_workers_read_the_cache_and_decode_nothing(make_settings, voc_root, tmp_path):
    C = make_settings(cache=str(tmp_path / "cache"), num_workers=2)
    batches = iter(build_train_loader(C, dataset := build_train_set(C)))
    for path in [*voc_root.rglob("*.png")]:
        path.write_bytes(b"can't be decoded any more")
    colours = {tuple(colour) for colour in PALETTE} | {dataset.view.geometric[0].fill}
    assert sum(1 for _ in batches) == 6
    assert {tuple(pixel) for pixel in dataset.files.image(dataset.labeled[0].image).reshape(-1, 3)} <= colours


def test_memory_is_freed_only_with_the_last_user(images, memory):
    folder = locate(RAM)
    assert folder.parent == memory
    first, second = (Cache(NUM_CLASSES, folder, keep=False) for _ in range(2))
    first.prepare(images, [])
    second.prepare(images, [])
    del first
    gc.collect()
    assert len(entries(folder)) == COUNT
    del second
    gc.collect()
    assert not folder.exists()


def test_a_worker_that_ends_leaves_the_memory_to_its_parent(images, memory):
    users = [Cache(NUM_CLASSES, locate(RAM), keep=False)]
    users[0].prepare(images, [])

    def end_worker() -> None:
        users.clear()
        gc.collect()

    worker = multiprocessing.get_context("fork").Process(target=end_worker)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert len(entries(locate(RAM))) == COUNT


def test_entries_that_a_killed_run_left_in_memory_are_used_or_removed(images, memory, decoded):
    folder = locate(RAM)
    Cache(NUM_CLASSES, folder).prepare(images, [])
    decoded.clear()
    cache = Cache(NUM_CLASSES, folder, keep=False)
    cache.prepare(images[:2], [])
    assert decoded == []
    assert len(entries(folder)) == 2
    other = Cache(NUM_CLASSES, folder, keep=False)
    other.prepare(images[2:], [])
    assert len(entries(folder)) == COUNT, "entries that another run uses were removed"


def test_space_in_memory_is_limited_by_the_available_memory(memory, tmp_path, monkeypatch):
    state = tmp_path / "meminfo"
    state.write_text("MemTotal:       2000 kB\nMemFree:          1 kB\nMemAvailable:     12 kB\n")
    monkeypatch.setattr(cache_folder, "MEMORY_STATE", state)
    assert free_bytes(locate(RAM)) == 12 * 1024
    assert free_bytes(tmp_path / "not" / "there") > 12 * 1024


def test_settings_choose_the_cache(make_settings, memory, tmp_path):
    assert type(build_files(make_settings())) is Files
    in_folder, in_memory = build_files(make_settings(cache=str(tmp_path))), build_files(make_settings(cache=RAM))
    assert (in_folder.folder, in_folder.keep) == (tmp_path, True)
    assert (in_memory.folder.parent, in_memory.keep) == (memory, False)
    memory.rmdir()
    with pytest.raises(UserError, match=r"C\.cache = ram: this system has no .*memory; name a folder"):
        build_files(make_settings(cache=RAM))


def test_swapped_images_are_decoded_again(tmp_path):
    """Files of the same size and time, such as BMP files from one archive."""
    one, two = (write_image(tmp_path / f"{v}.bmp", np.full((8, 8, 3), v, np.uint8)) for v in (10, 200))
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    Cache(NUM_CLASSES, tmp_path / "cache").prepare([one, two], [])
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    cache = Cache(NUM_CLASSES, tmp_path / "cache")
    cache.prepare([one, two], [])
    np.testing.assert_array_equal(cache.image(one), Files(NUM_CLASSES).image(one))


@pytest.mark.parametrize("fault", ["lock", "folder", "owner"])
def test_memory_that_can_not_be_used_is_named(fault, images, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder, "MEMORY", tmp_path)
    name = f"furnace-cache-{os.getuid()}"
    if fault == "owner":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        (tmp_path / "furnace-cache-12345").mkdir()
    else:
        (tmp_path / f"{name}.lock").mkdir() if fault == "lock" else (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"can't be used .*; name a folder in C.cache"):
        Cache(NUM_CLASSES, locate(RAM), keep=False).prepare(images, [])


def test_a_half_written_entry_of_a_killed_run_is_removed(images, tmp_path):
    part = tmp_path / "cache" / ".entry.0a.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    Cache(NUM_CLASSES, part.parent).prepare(images, [])
    assert not part.exists()
