"""The terminal, or what stands in its place: a file or a pipe gets neither colours nor moving bars, and long lines."""

import os
import sys

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 160


def open_console(quiet: bool = False) -> Console:
    """A console for stdout; NO_COLOR and COLUMNS are heeded."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(quiet=quiet, width=None if narrow else WIDTH_WITHOUT_TERMINAL)
