"""Findings of a check of an experiment, in words."""

from dataclasses import dataclass
from enum import Enum

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from furnace.utils.settings import Settings

SAMPLE = 64  # images of each list that are decoded unless all are wanted


class Level(Enum):
    """Severity of a finding: only problems stop a run or spoil its results."""

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
