"""Format counts, names, shares, sizes and times for messages, tables and pages."""

import math
from collections.abc import Iterable
from unicodedata import category

SHOWN = 3  # names before "and 7 more"
UNITS = ("KiB", "MiB", "GiB", "TiB")
MINUTE, HOUR = 60, 3600
UNKNOWN = "-"
# Words for the lists of a run, by their names in records and snapshots.
LISTS = {"labeled": "labelled", "unlabeled": "unlabelled", "test": "evaluation", "validation": "validation"}
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines and paragraphs


def few(names: Iterable[object], shown: int = SHOWN) -> str:
    """The first names, and the number of the others."""
    names = [str(name) for name in names]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def one_line(text: object) -> str:
    """A text with its line breaks and control characters escaped."""
    return "".join(repr(c)[1:-1] if category(c) in UNSHOWN else c for c in str(text))


def counted(count: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count} {what}{'s' if count != 1 else ''}"


def percent(share: float | None, signed: bool = False) -> str:
    """0.7374, or a difference of shares, as "73.74"; NaN and None as "-"."""
    return UNKNOWN if share is None or math.isnan(share) else f"{100 * share:{'+' if signed else ''}.2f}"


def byte_size(count: float) -> str:
    """A number of bytes, such as "24.6 GiB"."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = min(int(math.log2(count)) // 10, len(UNITS))
    return f"{count / 1024**power:.1f} {UNITS[power - 1]}"


def duration(seconds: float | None) -> str:
    """ "26 ms", "2.15 s", "45 s", "12 min" or "3.4 h"; "-" if unknown."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 2 * MINUTE:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:,.1f} h"
