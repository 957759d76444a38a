"""Findings of an experiment's checks, and their table."""

from dataclasses import dataclass
from enum import Enum

from rich.box import SIMPLE_HEAD
from rich.text import Text

from furnace.utils.settings import Settings
from furnace.utils.terminal import Table

SAMPLE = 64  # images to decode per list, unless all are requested


class Level(Enum):
    """Severity of a finding: only problems stop a run or make its results wrong."""

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


def findings_table(C: Settings, findings: list[Finding]) -> Table:
    """Table of findings in the order of the checks, with advice below each."""
    table = Table(box=SIMPLE_HEAD, title=f"{C.this_dir}: {C.method} on {C.dataset_name}", title_justify="left")
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        level = Text(finding.level.value, STYLES[finding.level])
        advice = (f"\n-> {finding.advice}", "dim") if finding.advice else ""
        table.add_row(level, finding.check, Text.assemble(finding.text, advice))
    return table
