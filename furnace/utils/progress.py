"""Work on many files: in threads, with a progress bar."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MAX_THREADS = 8  # more only wait for the disk


def parallel(work: Callable, items: Sequence, description: str = "") -> list:
    """`work` of each item, in their order, on several cores, with a progress bar if it gets a description."""
    if not items:
        return []
    with files_bar(visible=bool(description)) as progress, ThreadPoolExecutor(thread_count()) as pool:
        return list(progress.track(pool.map(work, items), total=len(items), description=description))


def files_bar(visible: bool = True) -> Progress:
    """A progress bar on stderr that counts files."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not visible)


def thread_count() -> int:
    """Threads for decoding, encoding and files."""
    return min(MAX_THREADS, os.cpu_count() or 1)
