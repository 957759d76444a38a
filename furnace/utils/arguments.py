"""Arguments that several commands have."""

from argparse import ArgumentParser
from collections.abc import Callable

from furnace.utils.errors import UserError


def add_overrides(parser: ArgumentParser, what: str = "for this run") -> None:
    """`-o KEY=VALUE`, as often as one likes; `parse_overrides` reads them."""
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help=f"another setting {what}"
    )


def positive(text: str) -> int:
    """A whole number from 1. Raises ValueError otherwise, as argparse wants it."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def whole_numbers(option: str, least: int) -> Callable[[str], list[int]]:
    """The type of `option`: "2,4,8" as [2, 4, 8], each once. It raises UserError unless all are `least` or more."""

    def parse(text: str) -> list[int]:
        parts = list(dict.fromkeys(part.strip() for part in text.split(",")))
        if not all(part.isdecimal() and part.isascii() and int(part) >= least for part in parts):
            raise UserError(f"{option} {text}: expected whole numbers from {least}, separated by commas")
        return [int(part) for part in parts]

    return parse
