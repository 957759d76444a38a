"""Types of settings: how texts of the command line and values of config.py are read, and what they must be."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt

from furnace.utils.wording import one_line

NO_FILE = ("none", "")
MAX_SCALE = 16  # a larger scale is a typing error, which would use all memory before it failed
LONGEST_NAME = 100
LONGEST_PART = 255  # of a path, in bytes
NAMES_MUST = (
    f"must be different names of 1 to {LONGEST_NAME} characters, without tabs, line breaks and control characters"
)


def are_class_names(names: Sequence[str]) -> bool:
    """True for names that tables, plots and files can show, see `NAMES_MUST`."""
    return len(set(names)) == len(names) and all(
        0 < len(name.strip()) <= LONGEST_NAME and one_line(name) == name for name in names
    )


def _joined(value: Any) -> Any:
    """Names of encoders as settings have them, "resnet50,convnext_tiny", from text, a tuple or a list."""
    return ",".join(str(part).strip() for part in _split(value)) if isinstance(value, str | tuple | list) else value


def _split(value: Any) -> Any:
    """The parts of a text that commas separate; other values as they are."""
    if not isinstance(value, str):
        return value
    return [part.strip(" '\"") for part in value.strip("[]() ").split(",") if part.strip()]


def _joined_files(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else value


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in NO_FILE else value


def _cache(value: Any) -> Any:
    """Words for "no cache" as "off". Raises ValueError for "yes", which names no place."""
    text = str(value).lower()
    if text in ("yes", "true", "1"):
        raise ValueError("must be off, ram or a folder")
    return "off" if text in ("none", "no", "false", "0") else text if text in ("off", "ram") else value


def _colours(value: Any) -> Any:
    """Colours as triples: texts such as "#ff8000", in a list or separated by commas, or triples as they are.

    Raises ValueError for other texts.
    """

    def triple(colour: Any) -> Any:
        if not isinstance(colour, str):
            return colour
        digits = colour.strip().removeprefix("#")
        if not re.fullmatch("[0-9a-fA-F]{6}", digits):
            raise ValueError(f"{colour.strip()}: is not a colour such as #ff8000; commas separate colours")
        return tuple(bytes.fromhex(digits))

    value = _split(value)
    return [triple(colour) for colour in value] if isinstance(value, list | tuple) else value


def _is_path(text: str | None) -> bool:
    """True for None, and for a path, or paths separated by commas, that a file system can look for."""
    parts = (text or "").replace(",", "/").split("/")
    return all("\0" not in part and len(part.encode(errors="surrogatepass")) <= LONGEST_PART for part in parts)


def _must(text: str, fits: Callable[[Any], bool]) -> AfterValidator:
    """A validator that accepts only values that fit."""

    def check(value: Any) -> Any:
        if not fits(value):
            raise ValueError(text)
        return value

    return AfterValidator(check)


def _from_home(text: str | None) -> str | None:
    """Paths separated by commas with "~" replaced, which the shell leaves in -o key=~/path."""
    return text and ",".join(map(os.path.expanduser, text.split(",")))


_IS_PATH = _must(f"is not a path: each part has at most {LONGEST_PART} bytes, without null characters", _is_path)
Share = Annotated[float, Field(ge=0, le=1)]
OptionalCount = Annotated[NonNegativeInt | None, BeforeValidator(_none)]
OptionalText = Annotated[str | None, BeforeValidator(_none)]
OptionalFloats = Annotated[tuple[float, ...] | None, BeforeValidator(_split), BeforeValidator(_none)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_split)]
Scales = Annotated[
    Floats,
    _must(
        f"must be scales above 0 and at most {MAX_SCALE}, separated by commas",
        lambda scales: bool(scales) and 0 < min(scales) <= max(scales) <= MAX_SCALE,
    ),
]
Shares = Annotated[
    Floats,
    _must(
        "must be the smallest and the largest share, above 0 and at most 1",
        lambda ends: len(ends) == 2 and 0 < ends[0] <= ends[1] <= 1,
    ),
]
MeanColour = Annotated[
    Floats,
    _must(
        "must be three numbers from 0 to 1, for red, green and blue; divide grey levels by 255",
        lambda mean: len(mean) == 3 and 0 <= min(mean) <= max(mean) <= 1,
    ),
]
ColourSpread = Annotated[
    Floats,
    _must(
        "must be three numbers above 0 and at most 1, for red, green and blue; divide grey levels by 255",
        lambda std: len(std) == 3 and 0 < min(std) <= max(std) <= 1,
    ),
]
Level = Annotated[int, Field(ge=0, le=255)]
Colours = Annotated[tuple[tuple[Level, Level, Level], ...], BeforeValidator(_colours)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
ClassNames = Annotated[Names, _must(NAMES_MUST, are_class_names)]
MetricNames = Annotated[Names, _must("must name at least one metric", bool)]
Encoders = Annotated[str, BeforeValidator(_joined)]
PathText = Annotated[str, _IS_PATH, AfterValidator(_from_home)]
OptionalPath = Annotated[str | None, BeforeValidator(_none), _IS_PATH, AfterValidator(_from_home)]
Files = Annotated[
    str | None, BeforeValidator(_none), BeforeValidator(_joined_files), _IS_PATH, AfterValidator(_from_home)
]
CachePlace = Annotated[str, BeforeValidator(_cache), _IS_PATH, AfterValidator(_from_home)]
