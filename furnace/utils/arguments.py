"""Arguments of several commands."""

import math
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from furnace.utils.errors import UserError


class Parser(ArgumentParser):
    """A parser with one-line errors that keeps the line breaks of description and examples."""

    def __init__(self, **options: Any):
        started_by = getattr(sys.modules["__main__"], "__spec__", None)  # python -m NAME
        ours = started_by is not None and started_by.name.startswith("furnace.")
        # Without a name argparse takes that of the file.
        super().__init__(
            prog=f"python -m {started_by.name}" if ours else None,
            formatter_class=RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UserError; for an option that does not exist, with the setting of its name or the closest option."""
        wrong = next((word for word in message.split() if word.startswith("--")), "").partition("=")[0]
        close = get_close_matches(wrong, self._option_string_actions, n=1)
        setting = wrong.strip("-").replace("-", "_")
        hint = "--help shows all options"
        if message.startswith("unrecognized arguments"):
            from furnace.utils.settings import Settings  # not at every start: it imports pydantic

            if setting in Settings.model_fields and "-o" in self._option_string_actions:
                hint = f"settings follow -o: -o {setting}=VALUE"
            elif close:
                hint = f"did you mean {close[0]}?"
        raise UserError(f"{self.prog}: {message}; {hint}")


def add_overrides(parser: ArgumentParser, what: str = "for this run") -> None:
    """Add `-o KEY=VALUE`, which may be repeated; `parse_overrides` reads them."""
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help=f"another setting {what}"
    )


def user_path(text: str) -> Path:
    """The type of options that name files or folders; shells leave the "~" in --option=~/path."""
    return Path(os.path.expanduser(text))  # Path's own function raises for unknown users


def number(option: str, least: int, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """The type of `option`: a finite number of a kind, `least` or more. It raises UserError for others."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise UserError(f"{option} {text}: expected a {'whole ' if kind is int else ''}number from {least}")
        return value

    return parse


def whole_numbers(option: str, least: int) -> Callable[[str], list[int]]:
    """The type of `option`: "2,4,8" as [2, 4, 8], each once, all `least` or more. It raises UserError for others."""

    def parse(text: str) -> list[int]:
        parts = list(dict.fromkeys(part.strip() for part in text.split(",")))
        if not all(part.isdecimal() and part.isascii() and int(part) >= least for part in parts):
            raise UserError(f"{option} {text}: expected whole numbers from {least}, separated by commas")
        return [int(part) for part in parts]

    return parse


def snapshot(option: str) -> Callable[[str], str]:
    """The type of `option`: text that may be the path of a snapshot. It raises UserError if the file is missing."""

    def parse(text: str) -> str:
        is_path = os.sep in text or Path(text).suffix
        # torchrun restarts a process with the same path, but it continues from its last save; the file may be gone.
        if is_path and "LOCAL_RANK" not in os.environ and not Path(text).exists():
            raise UserError(f"{option} {text}: no such file")
        return text

    return parse
