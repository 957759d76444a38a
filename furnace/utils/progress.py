"""Progress bars, and parallel work on many files with one."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from tqdm import tqdm

MAX_THREADS = 8  # more only wait for the disk
LINE_SECONDS = 30  # between two lines in a log file or a pipe
LINE_FORMAT = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressBar(tqdm):
    """A tqdm bar; in a file or a pipe, a plain line every `LINE_SECONDS` and at the end.

    Args:
        description: text in front of the bar.
        total: number of steps; None if unknown.
        console: where to draw it (not if it is quiet); default: stderr.
        start: steps that an earlier run has done.
        unit: name of a step.
    """

    monitor_interval = 0  # no thread beside training, which forks

    def __init__(
        self, description: str, total: int | None, console: Console | None = None, start: int = 0, unit: str = "image"
    ):
        console = console or Console(stderr=True)
        options = {"desc": description, "total": total, "initial": start, "unit": unit, "disable": console.quiet}
        if is_terminal(console.file):
            known = os.get_terminal_size(console.file.fileno()).columns > 0
            super().__init__(file=console.file, ncols=console.width, dynamic_ncols=known, miniters=1, **options)
        else:
            lines = Lines(console.file)
            super().__init__(
                file=lines, mininterval=LINE_SECONDS, delay=LINE_SECONDS, miniters=1, bar_format=LINE_FORMAT, **options
            )

    def close(self) -> None:
        """Draw the last state, also of a bar that was never drawn."""
        self.delay = 0
        super().close()

    def advance_to(self, done: int) -> None:
        """Set the number of steps that are done."""
        self.update(done - self.n)


class Lines:
    """A text file that turns the redrawings of a bar into lines, each once."""

    def __init__(self, file: TextIO):
        self.file, self.last = file, ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.last:
            self.last = line
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        self.file.flush()


def is_terminal(file: TextIO) -> bool:
    """True if a file can redraw a line."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def beside_bars(console: Console) -> Iterator[None]:
    """Context for printing on `console`: bars are removed before and drawn again below."""
    with tqdm.external_write_mode(file=console.file):
        yield


def parallel(work: Callable, items: Sequence, description: str = "") -> list:
    """Return `work(item)` for each item, in order, on several cores; a description adds a progress bar on stderr."""
    if not items:
        return []
    console = Console(stderr=True, quiet=not description)
    with ThreadPoolExecutor(thread_count()) as pool, ProgressBar(description, len(items), console, unit="file") as bar:
        results = []
        for result in pool.map(work, items):
            results.append(result)
            bar.update()
        return results


def thread_count() -> int:
    """Threads for decoding, encoding and files."""
    return min(MAX_THREADS, os.cpu_count() or 1)
