"""The terminal, or what stands in its place: a file or a pipe gets neither colours nor moving bars, and long lines."""

import os
import sys
from typing import Any

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 160


def open_console(**options: Any) -> Console:
    """A console for stdout; NO_COLOR and COLUMNS are heeded, `options` are those of rich."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(**options, width=None if narrow else WIDTH_WITHOUT_TERMINAL)
