"""Run an experiment's config.py: the settings that it assigns, and where."""

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import easydict
from pydantic import BaseModel

from furnace.utils.checking import WRONG, Fault, parse, plain
from furnace.utils.errors import UserError
from furnace.utils.places import CHECKOUT
from furnace.utils.wording import one_line

# Environment variables of the published code, and the settings they stand for.
ENVIRONMENT = {
    "volna": "volna",
    "snapshot_dir": "snapshot_dir",
    "batch_size": "batch_size",
    "learning_rate": "lr",
    "snapshot_iter": "snapshot_iter",
    "debug": "debug",
}
# Names that a published config.py assigns and that mean nothing here.
FOREIGN = {
    "repo_name", "abs_dir", "log_dir_link", "train_log_file", "val_log_file", "link_val_log_file", "img_root_folder",
    "gt_root_folder", "device", "background", "num_eval_imgs", "warm_up_epoch", "eval_iter", "demo_source",
    # of CPS and TorchSeg
    "log_file", "link_log_file", "is_test", "fix_bias", "eval_base_size",
}  # fmt: skip
CONFIG = Path("config.py")
SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Config:
    """What an experiment's config.py and the overrides assign, before the check.

    Attributes:
        file: path of config.py.
        values: settings by name.
        places: where each was assigned, for messages.
        given: names of the settings that override config.py.
        foreign: names that a published config.py assigns and that mean nothing here.
    """

    file: Path
    values: dict[str, Any]
    places: dict[str, str]
    given: frozenset[str]
    foreign: tuple[str, ...]

    def explained(self, faults: list[Fault], values: Mapping[str, Any]) -> Iterator[str]:
        """Yield one line per fault of `values`, and one for all settings that are not set."""
        if unset := [fault for fault in faults if fault.kind == "unset"]:
            names = ", ".join(fault.names[0] for fault in unset)
            yield f"{self.file}: {names} not set; assign C.{unset[0].names[0]} ({unset[0].message})"
        for fault in faults:
            where = ", ".join(dict.fromkeys(self.places.get(name, str(self.file)) for name in fault.names))
            if fault.kind == "unknown":
                yield f"{where}: {fault.message}"
            elif fault.kind == "value":
                name = fault.names[0]
                value = "" if name in self.given else f"{name} = {repr(values[name])[:SHOWN]}: "
                yield f"{where}: {value}{fault.message}"
            elif fault.kind == "rule":
                told = ", ".join(f"{name} = {one_line(values[name])[:SHOWN]}" for name in fault.names if name in values)
                yield f"{where}: {told}: {fault.message}"

    def note(self, concluded: Mapping[str, Any]) -> tuple[str, ...]:
        """One note about a file in the published form, none about others; `concluded` are values that it lacks."""
        told = ", ".join(f"{name} = {value}" for name, value in concluded.items())
        parts = [f"{told} (not assigned there)"] if told else []
        parts += [f"no meaning here: {', '.join(self.foreign)}"] if self.foreign else []
        return (f"{self.file}: {'; '.join(parts)}",) if parts else ()


def read_config(experiment: str | Path, overrides: Mapping[str, Any], schema: type[BaseModel]) -> Config:
    """Run an experiment's config.py.

    Args:
        experiment: its folder, or another file in it, such as exp_voc/config_modern.py; see `find_config`.
        overrides: settings by name, as text or values; they override the environment variables of `ENVIRONMENT`, and
            those override config.py. Values that config.py computes from them change, too.
        schema: class of the settings, as far as it is known before.

    Raises:
        UserError: there is no config.py, or it fails.
    """
    file = find_config(experiment)
    given, origins = _given(overrides)
    # Values that can't be parsed stay as in config.py here: the check reports them.
    pins = {name: value for name, text in given.items() if (value := parse(schema, name, text)) is not WRONG}
    values, lines = _run(file, pins | {"repo_name": file.parents[1].name})
    values = _with_folders(values | given, file)
    foreign = tuple(sorted(FOREIGN & values.keys() - {"repo_name"}))
    values = {name: value for name, value in values.items() if name not in FOREIGN}
    places = {name: f"{file}, line {line}" for name, line in lines.items()} | origins
    return Config(file, values, places, frozenset(given), foreign)


def find_config(experiment: str | Path) -> Path:
    """Absolute path of an experiment's config file: the config.py of a folder, or a named file.

    It is looked for in the working directory, then in the checkout. Raises UserError if it is in neither.
    """
    path = Path(experiment)
    named = path if path.suffix == CONFIG.suffix else path / CONFIG
    for file in (named, CHECKOUT / named):
        if file.is_file():
            return file.resolve()
    others = ", ".join(sorted(path.name for path in named.parent.glob(f"{CONFIG.stem}*.py")))
    hint = f"there are {others}" if others else "name an experiment folder such as exp_voc"
    raise UserError(f"{named}: no such file; {hint}")


def experiment_name(file: Path) -> str:
    """Name of the experiment of a config file: exp_voc for its config.py, exp_voc_modern for config_modern.py."""
    return file.parent.name + file.stem.removeprefix(CONFIG.stem)


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["lr=0.1", "nepochs=3"]` as a dict. Raises UserError if there is no name or no "="."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (name, equals, _) in zip(pairs, split, strict=True):
        if not (name.strip() and equals):
            raise UserError(f"-o {pair}: not of the form key=value, such as -o batch_size=4")
    return {name.strip(): value.strip() for name, _, value in split}


def _given(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that override config.py, and the origin of each for messages."""
    given, origins = {}, {}
    for variable, name in ENVIRONMENT.items():
        if text := os.environ.get(variable):
            # As published: the folder above `snapshot`, and any text for debug.
            given[name] = os.path.join(text, "snapshot") if name == "snapshot_dir" else name == "debug" or text
            origins[name] = f"environment variable {variable}={text}"
    origins |= {name: f"-o {name}={one_line(value)[:SHOWN]}" for name, value in overrides.items()}
    return given | dict(overrides), origins


def _with_folders(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add the folders of an experiment that config.py does not name."""
    values = {
        "this_dir": experiment_name(file),
        "root_dir": str(file.parents[1]),
        "volna": str(file.parents[1]),
    } | values
    values.setdefault("log_dir", os.path.join(str(values["root_dir"]), "log", str(values["this_dir"])))
    values.setdefault("snapshot_dir", os.path.join(str(values["log_dir"]), "snapshot"))
    return values


def _run(file: Path, pins: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """Values and, by name, lines of all assignments to the `C` of config.py, in which `pins` stay as they are.

    Raises:
        UserError: config.py fails, or fills no EasyDict `C`.
    """
    lines: dict[str, int] = {}
    owner: list[easydict.EasyDict] = []

    class Pinned(easydict.EasyDict):
        """An EasyDict of config.py; the first one, which is `C`, ignores assignments to the pins."""

        def __init__(self, *args, **kwargs):
            if not owner:
                owner.append(self)
                for name, value in pins.items():
                    # A new list: `C.name += [...]` would change the given one, and fail on a tuple.
                    super().__setattr__(name, list(value) if isinstance(value, tuple) else value)
            super().__init__(*args, **kwargs)

        def __setattr__(self, name: str, value: Any) -> None:
            if self is owner[0] and name in pins:
                return
            frame = sys._getframe(1)
            while frame.f_back and frame.f_code.co_filename != str(file):
                frame = frame.f_back
            lines[name] = frame.f_lineno
            super().__setattr__(name, value)

        __setitem__ = __setattr__

    with _in_folder(file.parent), _failing(file):
        original, easydict.EasyDict = easydict.EasyDict, Pinned
        try:
            C = runpy.run_path(str(file)).get("C")
        finally:
            easydict.EasyDict = original
    if not isinstance(C, dict):
        raise UserError(f"{file}: defines no C = EasyDict()")
    if owner and C is not owner[0]:
        raise UserError(f"{file}: makes another EasyDict before C; make C first, so that -o can change what follows")
    return {str(name): plain(value) for name, value in C.items() if not str(name).startswith("_")}, lines


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Run the block in a folder and import its modules: published files find their root from the working directory."""
    before, path = Path.cwd(), str(folder)
    os.chdir(folder)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)
        os.chdir(before)


@contextmanager
def _failing(file: Path) -> Iterator[None]:
    """Turn an exception of config.py into one line with its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines = [error.lineno]
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        said = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{place}: {type(error).__name__}: {said}") from error
