"""Output to a terminal, or to a file or pipe, which get long lines without colours and moving bars."""

import errno
import os
import sys
import termios
from multiprocessing import parent_process
from typing import Any

from rich import table
from rich.console import Console
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 160


def open_console(**options: Any) -> Console:
    """A console for stdout that respects NO_COLOR and COLUMNS; `options` are those of rich."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(**{"markup": False, **options}, width=None if narrow else WIDTH_WITHOUT_TERMINAL)


def leave_lost_terminal() -> None:
    """Discard stdout and stderr if their terminal was closed: each line to it would be an error."""
    for number in (1, 2):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args[0] == errno.EIO:  # a file or a pipe has another one
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


class Table(table.Table):
    """rich's table with literal strings: names and paths may contain brackets, rich's markup."""

    def __init__(self, *headers: str, title: str | None = None, caption: str | None = None, **options: Any):
        super().__init__(
            *headers,
            title=None if title is None else Text(title, "table.title"),
            caption=None if caption is None else Text(caption, "table.caption"),
            **options,
        )

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def process_number() -> int:
    """Number of this process in its run, from the environment that its launcher has made; 0 if it is alone."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() else 0


_noted: set[str] = set()


def note(kind: str, text: str) -> None:
    """Print one note to stderr for each `kind`, in the first process of a run; its loaders' workers are silent."""
    if kind in _noted or parent_process() is not None or process_number():
        return
    _noted.add(kind)
    Console(stderr=True).print(f"note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)
