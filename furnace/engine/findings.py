"""What a check of an experiment finds, in words."""

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from enum import Enum

SHOWN = 3  # names in one finding
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Level(Enum):
    """How bad a finding is: only problems stop a run, or spoil its results."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it."""

    level: Level
    check: str
    text: str
    advice: str = ""


def few(names: Iterable[object]) -> str:
    """The first names, and how many there are besides."""
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def counted(items: Sized, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{len(items)} {what}{'s' if len(items) != 1 else ''}"


def room(size: float) -> str:
    """A number of bytes, such as "24.6 GiB"."""
    power = 0
    while size >= 1024 and power < len(UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {UNITS[power]}"
