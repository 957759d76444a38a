"""The faults of the torture: each function injects a fault into a run and returns its outcome."""

import errno
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from furnace.datasets.batch import TrainBatch
from furnace.engine.snapshot_folder import list_snapshots
from furnace.engine.trainer import Trainer
from furnace.utils import files
from furnace.utils.errors import SIGNAL_BASE, USER_ERROR_STATUS
from tests.torture.victim import HANG_SECONDS, Failed, Victim

TERMINATED = SIGNAL_BASE + signal.SIGTERM
INTERRUPTED = SIGNAL_BASE + signal.SIGINT
KILLED = -signal.SIGKILL
HELD = "save is held"
MOST_SAVES = 5  # a kill while saving waits for fewer saves than this

Fault = Callable[[Victim, random.Random], str]


def kill_at_any_moment(victim: Victim, rng: random.Random) -> str:
    starting, delay = rng.random() < 0.2, rng.uniform(0, victim.seconds / 3)  # two thirds of it are the start
    victim.start()
    if not starting:
        victim.wait_until_training()
    time.sleep(delay)
    return _kill(victim)


def kill_while_saving(victim: Victim, rng: random.Random) -> str:
    number = rng.randrange(1, MOST_SAVES)
    victim.start(inject=lambda: _hold_save(number))
    victim.wait_for(lambda: HELD in victim.said())
    return _kill(victim)


def _kill(victim: Victim) -> str:
    victim.kill()
    ending = victim.end().expect(KILLED, 0)
    if "damaged" in ending.text:
        raise Failed(f"a kill before this one has damaged a save: ...{ending.text}")
    going_on = ", had continued" if "-c auto: continues" in ending.text else ""
    return f"killed{going_on}" if ending.status else "status 0"


def _hold_save(number: int) -> None:
    """Make this process hang in the middle of a save, with one half written; `number` counts saves from 1."""
    flush, numbers = files._flush, itertools.count(1)

    def hold(path: Path) -> None:
        if path.name.endswith(".pth.part") and next(numbers) == number:
            if path.stat().st_nlink == 1:  # otherwise it is a whole snapshot that gets another name
                os.truncate(path, path.stat().st_size // 2)
            print(HELD, flush=True)
            time.sleep(HANG_SECONDS)
        flush(path)

    files._flush = hold


def terminate(victim: Victim, rng: random.Random) -> str:
    return _ask_to_stop(victim, signal.SIGTERM, TERMINATED)


def interrupt(victim: Victim, rng: random.Random) -> str:
    return _ask_to_stop(victim, signal.SIGINT, INTERRUPTED)


def _ask_to_stop(victim: Victim, signum: int, status: int) -> str:
    victim.start()
    victim.wait_until_training()
    victim.kill(signum)
    ending = victim.end().expect(status, 0)
    if ending.status == status:
        ending.expect(status, say="saved")
    return f"status {ending.status}, saved"


def kill_a_loader(victim: Victim, rng: random.Random) -> str:
    victim.start()
    victim.wait_until_training()
    for pid in victim.workers():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    ending = victim.end().expect(USER_ERROR_STATUS, 0)
    if ending.status:
        ending.expect(USER_ERROR_STATUS, say="a loader process")
    return f"status {ending.status}, files named, saved"


def truncate_the_latest_save(victim: Victim, rng: random.Random) -> str:
    return _damage_the_latest_save(victim, lambda path: os.truncate(path, rng.randrange(path.stat().st_size)))


def change_a_byte_of_the_latest_save(victim: Victim, rng: random.Random) -> str:
    def change(path: Path) -> None:
        position = rng.randrange(path.stat().st_size // 4, path.stat().st_size // 2)
        with open(path, "rb+") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 0x10]))

    return _damage_the_latest_save(victim, change)


def _damage_the_latest_save(victim: Victim, damage: Callable[[Path], None]) -> str:
    saves = victim.saves()
    if len(saves) < 2:
        # Train until there is an autosave and a snapshot of an epoch.
        victim.start()
        victim.wait_for(lambda: len(victim.saves()) >= 2)
        victim.kill()
        victim.end().expect(KILLED)
        saves = victim.saves()
    damage(saves[0])
    with open(saves[0], "rb") as damaged:  # held open, so that no other file gets its inode number
        victim.start()
        if not victim.wait_until_training():
            victim.end().expect(0, say="-c auto: continues")
        victim.kill(signal.SIGTERM)
        victim.end().expect(TERMINATED, 0, say="-c auto: continues").expect(TERMINATED, 0, say=saves[0].name)
        number = os.fstat(damaged.fileno()).st_ino
        for path in list_snapshots(victim.snapshot_dir):
            if path.stat().st_ino == number:
                path.unlink()  # otherwise only damaged ones would remain
    return "named, an earlier one taken"


def damage_an_image(victim: Victim, rng: random.Random) -> str:
    listed = (victim.folder / "DATA/toy/subset_train").glob("train_labeled_*.txt")
    path = victim.folder / "DATA/toy/train/image" / f"{rng.choice(next(listed).read_text().split())}.png"
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) // 2)])
    try:
        victim.start()
        ending = victim.end().expect(USER_ERROR_STATUS, 0)
        if ending.status:
            ending.expect(USER_ERROR_STATUS, say=path.name)
    finally:
        path.write_bytes(content)
    return f"status {ending.status}, file named, saved"


def fill_the_disk(victim: Victim, rng: random.Random) -> str:
    before = {path.name: path.stat().st_ino for path in victim.saves()}
    victim.start(inject=_no_space)
    victim.end().expect(USER_ERROR_STATUS, say="no space left").expect(USER_ERROR_STATUS, say="are needed")
    if {path.name: path.stat().st_ino for path in victim.saves()} != before:
        raise Failed("a save that was there has changed")
    return "size and space named, earlier saves kept"


def _no_space() -> None:
    """Make every write of a snapshot in this process fail as on a full disk."""

    def full(path: Path) -> None:
        if path.suffix == ".part":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files._flush = full


def poison_a_batch(victim: Victim, rng: random.Random) -> str:
    delay = rng.randrange(3)
    victim.start(inject=lambda: _poison(delay))
    ending = victim.end().expect(USER_ERROR_STATUS, 0)
    if ending.status:
        ending.expect(USER_ERROR_STATUS, say="not finite").expect(USER_ERROR_STATUS, say="batch: labelled")
    return f"status {ending.status}, iteration, files and loss named, state before it saved"


def _poison(delay: int) -> None:
    """Fill the images of one batch with NaN, after `delay` other iterations."""
    prepare = Trainer.prepare

    def poisoned(trainer: Trainer, batch: TrainBatch) -> TrainBatch:
        batch = prepare(trainer, batch)
        if trainer.iteration == trainer.start_iteration + delay:
            batch.images.fill_(torch.nan)
        return batch

    Trainer.prepare = poisoned


FAULTS: dict[str, Fault] = {
    "kill -9 at any moment": kill_at_any_moment,
    "kill -9 while saving": kill_while_saving,
    "SIGTERM": terminate,
    "SIGINT": interrupt,
    "kill -9 of a loader": kill_a_loader,
    "latest save truncated": truncate_the_latest_save,
    "a byte of the latest save changed": change_a_byte_of_the_latest_save,
    "image damaged": damage_an_image,
    "disk full": fill_the_disk,
    "loss not finite": poison_a_batch,
}
