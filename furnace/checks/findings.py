"""What a check of an experiment finds, in words."""

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from enum import Enum

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from furnace.utils.settings import Settings

SAMPLE = 64  # images of each list that are decoded unless all are wanted
SHOWN = 3  # names in one finding
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Level(Enum):
    """How bad a finding is: only problems stop a run, or spoil its results."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}


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


def duration(seconds: float) -> str:
    """Seconds in three digits or so, as "2.15 s" or "26 ms"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def room(size: float) -> str:
    """A number of bytes, such as "24.6 GiB"."""
    power = 0
    while size >= 1024 and power < len(UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {UNITS[power]}"


def findings_table(C: Settings, findings: list[Finding]) -> Table:
    """Findings in the order of the checks, with what to do under what was found."""
    table = Table(box=SIMPLE_HEAD, title=f"{C.this_dir}: {C.method} on {C.dataset_name}", title_justify="left")
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        style = STYLES[finding.level]
        advice = f"\n[dim]-> {escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(f"[{style}]{finding.level.value}[/]", escape(finding.check), escape(finding.text) + advice)
    return table
