"""A progress bar, and how many threads work on what it shows."""

import os

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MAX_THREADS = 8  # more only wait for the disk


def progress_bar() -> Progress:
    """A progress bar on stderr that counts files."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def thread_count() -> int:
    """Threads for decoding, encoding and files."""
    return min(MAX_THREADS, os.cpu_count() or 1)
