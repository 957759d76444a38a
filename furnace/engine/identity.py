"""Identity of a run: its name, and digests of its training lists, images and labels."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from furnace.datasets.dataset import TrainSet
from furnace.datasets.splits import Sample, list_hash
from furnace.engine.distributed import from_first
from furnace.utils.background import ahead
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import LISTS

END_BYTES = 2**16  # read at each end of a file: all of a Pascal VOC image, not all of a Cityscapes image
CHUNK_BYTES = 2**20


def new_run() -> str:
    """A unique name for a run."""
    return uuid.uuid4().hex


def file_digest(path: Path, whole: bool = False) -> str:
    """Hexadecimal digest of a file's size, and its first and last 64 KiB or its `whole` content."""
    status = path.stat()
    return _digest_at(path, whole, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=2**20)  # the trials of a comparison need the same files
def _digest_at(path: Path, whole: bool, size: int, *_) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(f"{size}:".encode() + file.read(END_BYTES), digest_size=16)
        if size > END_BYTES:
            file.seek(END_BYTES if whole else max(END_BYTES, size - END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def snapshot_digest(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a snapshot file, stored with its scores."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def samples_digest(samples: Sequence[Sample], labels: bool = True) -> str:
    """Hexadecimal digest of samples in order: names, and contents of images and, with `labels`, of labels.

    A missing file is no error here: its reader reports it.

    Raises:
        UserError: a file can't be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for sample, contents in ahead(partial(_contents, labels=labels), samples):
        digest.update(f"{sample.name}\0{contents}\n".encode())
    return digest.hexdigest()


def _contents(sample: Sample, labels: bool) -> str:
    # A PNG ends with a checksum of its pixels. A correction of another label may change neither its size nor its ends.
    paths = {sample.image: False}
    if labels and sample.label:
        paths[sample.label] = sample.label.suffix.lower() != ".png"
    try:
        return " ".join(file_digest(path, whole) if path.is_file() else "missing" for path, whole in paths.items())
    except OSError as error:
        raise UserError(f"{error.filename or sample.image}: can't be read ({error.strerror or error})") from error


def data_identity(C: Settings, dataset: TrainSet) -> dict[str, dict[str, Any]]:
    """Describe the training lists of a run, as the first process reads them.

    Returns:
        for each list its `path`, number of `images`, `sha256` of its sorted lines (None for a folder), which identifies
        published partitions, and digests of `names` and of `content` (the files), in the order of the list.
    """

    def described(name: str, path: str, samples: Sequence[Sample]) -> dict[str, Any]:
        sha256 = list_hash(path) if Path(path).is_file() else None
        names = hashlib.blake2b("\n".join(sample.name for sample in samples).encode(), digest_size=16).hexdigest()
        content = samples_digest(samples, labels=name == "labeled")
        return {"path": path, "images": len(samples), "sha256": sha256, "names": names, "content": content}

    lists = learned_lists(C, dataset)
    return from_first(lambda: {name: described(name, *entry) for name, entry in lists.items()})


def learned_lists(C: Settings, dataset: TrainSet) -> dict[str, tuple[str, Sequence[Sample]]]:
    """Path and samples of each training list of a run."""
    lists = {"labeled": (C.train_source, dataset.labeled)}
    if dataset.unlabeled is not None:
        lists["unlabeled"] = (C.unsup_source, dataset.unlabeled)
    return lists


def changed_data(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> list[str]:
    """One phrase per list whose `names` or `content` (`what`) have changed; lists in only one of both do not count."""
    phrases = []
    for name, entry in now.items():
        old = before.get(name)
        if isinstance(old, dict) and old.get(what) not in (None, entry[what]):
            grown = old.get("images") != entry["images"]
            how = f"{old.get('images')} images, now {entry['images']}" if grown else f"other {what} or another order"
            phrases.append(f"{LISTS[name]} images {entry['path']} ({how})")
    return phrases
