"""Loading an experiment's config.py: overrides, environment variables, and errors in one line."""

import os
import runpy
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from furnace.utils.errors import UserError
from furnace.utils.settings import REQUIRED, RULES, Settings

# Environment variables of the published code, and the settings they stand for.
ENVIRONMENT = {
    "volna": "volna",
    "snapshot_dir": "snapshot_dir",
    "batch_size": "batch_size",
    "learning_rate": "lr",
    "snapshot_iter": "snapshot_iter",
    "debug": "debug",
}
# In place of pydantic's own words.
MESSAGES = {
    "float_parsing": "is no number",
    "int_parsing": "is no whole number",
    "int_from_float": "is no whole number",
    "bool_parsing": "is neither true nor false",
}
_overrides: ContextVar[Mapping[str, Any]] = ContextVar("overrides", default=MappingProxyType({}))


class Config(Settings):
    """`C` of an experiment's config.py: assign settings as attributes, in any plain Python.

    Values overridden for this run (`-o key=value`, environment variables) stay as they are when
    config.py assigns them, so that everything computed from them below follows.

    Args:
        file: `__file__` of the config.py.
    """

    def __init__(self, file: str):
        super().__init__()
        for name, value in _overrides.get().items():
            super().__setattr__(name, value)
        folder = Path(file).resolve().parent
        self.this_dir = folder.name
        self.volna = self.root_dir = str(folder.parent)
        self.log_dir = str(Path(self.root_dir) / "log" / self.this_dir)
        self.snapshot_dir = str(Path(self.log_dir) / "snapshot")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _overrides.get():
            super().__setattr__(name, value)


def load_config(folder: str | Path, overrides: dict[str, str] | None = None) -> Config:
    """Run `folder`/config.py and return its checked `C`.

    Args:
        folder: an experiment folder.
        overrides: settings by name, as text or values; they win over the environment variables of
            `ENVIRONMENT`, and those over config.py.

    Raises:
        UserError: no config.py, an unknown setting, a value of the wrong type or range, a missing setting.
    """
    file = Path(folder) / "config.py"
    if not file.is_file():
        raise UserError(f"{file}: no such file; name an experiment folder such as exp_voc")
    overrides = overrides or {}
    environment = {name: os.environ[variable] for variable, name in ENVIRONMENT.items() if os.environ.get(variable)}
    origins = {name: f"environment variable {variable}" for variable, name in ENVIRONMENT.items()}
    origins = {name: origins[name] for name in environment} | {name: f"-o {name}" for name in overrides}
    with _overriding({**environment, **overrides}), _explained(file, origins):
        C = runpy.run_path(str(file)).get("C")
    if not isinstance(C, Config):
        raise UserError(f"{file}: defines no C = Config(__file__)")
    unset = [
        name
        for name, field in Settings.model_fields.items()
        if getattr(C, name) is REQUIRED and not _may_be_none(field)
    ]
    if unset:
        raise UserError(
            f"{file}: {', '.join(unset)} not set; assign C.{unset[0]} ({Settings.model_fields[unset[0]].description})"
        )
    check_together(C, file, origins)
    if C.debug:
        C.nepochs, C.niters_per_epoch = min(C.nepochs, 2), min(C.niters_per_epoch, 10)
    return C


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["lr=0.1", "nepochs=3"]` as a dict. Raises UserError where there is no name or no "="."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (name, equals, _) in zip(pairs, split, strict=True):
        if not (name.strip() and equals):
            raise UserError(f"-o {pair}: not of the form key=value, such as -o batch_size=4")
    return {name.strip(): value.strip() for name, _, value in split}


def check_together(C: Settings, file: str | Path, origins: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check the settings that depend on one another. Raises UserError; `origins` as in `_explained`."""
    for names, must, fits in RULES:
        if not fits(C):
            values = ", ".join(f"{name} = {getattr(C, name)}" for name in names)
            where = ", ".join(dict.fromkeys(origins.get(name, str(file)) for name in names))
            raise UserError(f"{where}: {values}: {must}")


@contextmanager
def _overriding(values: dict[str, Any]):
    token = _overrides.set(values)
    try:
        yield
    finally:
        _overrides.reset(token)


@contextmanager
def _explained(file: Path, origins: Mapping[str, str]):
    """Turn pydantic's errors, and those of config.py itself, into one line.

    `origins` says where the values come from that config.py has not given.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        name, value = str(first["loc"][0]), first["input"]
        given = f"{origins[name]}={value}" if name in origins else None
        if name not in Settings.model_fields:
            raise UserError(f"{given or _place(file, error)}: unknown setting {name!r}; {_closest(name)}") from error
        message = MESSAGES.get(first["type"], first["msg"])
        raise UserError(
            f"{given or f'{_place(file, error)}: {name} = {value!r}'}: {message} "
            f"({Settings.model_fields[name].description})"
        ) from error
    except UserError:
        raise
    except Exception as error:  # config.py is the user's own code: whatever it raises is theirs to put right
        said = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{_place(file, error)}: {type(error).__name__}: {said}") from error


def _closest(name: str) -> str:
    """What may have been meant by a setting that isn't there."""
    close = get_close_matches(name, [*Settings.model_fields, *ENVIRONMENT], n=1)
    return f"did you mean {ENVIRONMENT.get(close[0], close[0])}?" if close else "--settings lists the known ones"


def _place(file: Path, error: Exception) -> str:
    """The file, with the line where the error came from if that is known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines = [error.lineno]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _may_be_none(field: Any) -> bool:
    return type(None) in getattr(field.annotation, "__args__", ())
