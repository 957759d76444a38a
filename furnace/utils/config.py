"""Loading an experiment's config.py: overrides, environment variables, and errors in one line."""

import os
import runpy
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
    check_together(C, file)
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


def check_together(C: Settings, file: str | Path) -> None:
    """Check the settings that depend on one another. Raises UserError."""
    for names, must, fits in RULES:
        if not fits(C):
            values = ", ".join(f"{name} = {getattr(C, name)}" for name in names)
            raise UserError(f"{file}: {values}: {must}")


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
            close = get_close_matches(name, Settings.model_fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "--settings lists the known ones"
            raise UserError(f"{given or file}: unknown setting {name!r}; {hint}") from error
        raise UserError(
            f"{given or f'{file}: {name} = {value!r}'}: {first['msg']} ({Settings.model_fields[name].description})"
        ) from error
    except UserError:
        raise
    except Exception as error:  # config.py is the user's own code: whatever it raises is theirs to put right
        raise UserError(f"{file}: {type(error).__name__}: {error}") from error


def _may_be_none(field: Any) -> bool:
    return type(None) in getattr(field.annotation, "__args__", ())
