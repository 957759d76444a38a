"""Best-effort writing of metrics, pictures, TensorBoard records and logs: a full disk does not stop the run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from furnace.utils.files import append

SCHEME = "besteffort"
FLUSH_SECONDS = 30  # a killed run loses at most these last seconds of TensorBoard records


class BestEffort:
    """Write a file if possible, in `with best_effort(path):`. On failure, log one warning per path and continue.

    Args:
        warn: called with the warning, one line.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.warn, self.told = warn, set()

    @contextmanager
    def __call__(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.tell(path, error)

    def tell(self, path: Path, error: OSError) -> None:
        """Warn once about a file that could not be written."""
        if path not in self.told:
            self.told.add(path)
            reason = error.strerror or error
            self.warn(f"{path}: can't be written ({reason}); the run continues and retries at the next write")


class RecordFile:
    """A file of TensorBoard records; a flush writes all pending records, or drops them if writing fails.

    On a full disk tensorboardX's own writer thread ends, and training would wait for it forever.
    """

    def __init__(self, path: Path, best_effort: BestEffort):
        self.path, self.best_effort, self.pending = path, best_effort, bytearray()

    def write(self, data: bytes) -> None:
        self.pending += data

    def flush(self) -> None:
        with self.best_effort(self.path):
            append(self.path, bytes(self.pending))
        self.pending.clear()

    close = flush


class RecordFiles:
    """File system for tensorboardX: it opens the files whose names begin with `SCHEME`."""

    def __init__(self, best_effort: BestEffort):
        self.best_effort = best_effort

    def open(self, name: str) -> RecordFile:
        return RecordFile(self._path(name), self.best_effort)

    def directory_check(self, name: str) -> None:
        path = self._path(name)
        with self.best_effort(path):
            path.mkdir(parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return Path(name.removeprefix(f"{SCHEME}:"))


def tensorboard_writer(folder: Path, best_effort: BestEffort, **settings) -> SummaryWriter:
    """A TensorBoard writer into `folder` that tolerates a full disk; `settings` are those of `SummaryWriter`."""
    register_writer_factory(SCHEME, RecordFiles(best_effort))
    return SummaryWriter(f"{SCHEME}:{folder}", flush_secs=FLUSH_SECONDS, **settings)
