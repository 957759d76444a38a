"""Check settings against their schema and report all faults together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import PurePath
from types import SimpleNamespace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from furnace.utils.names import EntryOf


@dataclass(frozen=True)
class Fault:
    """A fault of one or several settings: `kind` is "unset", "unknown", "value" or "rule" (of several settings)."""

    kind: str
    names: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message if self.kind == "unknown" else f"{', '.join(self.names)}: {self.message}"


WRONG = object()
MEANT = {"cps_weight": "unsup_weight", "learning_rate": "lr"}  # names of CPS for our settings
# Our wording of pydantic's messages.
MESSAGES = {
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "bool_parsing": "is neither true nor false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "tuple_type": "must be a list, such as [1, 2]",
    "list_type": "must be a list, such as [1, 2]",
}


def check(
    schema: type[BaseModel], values: Mapping[str, Any], quick: bool = False
) -> tuple[dict[str, Any], list[Fault]]:
    """Return the values of all settings, defaults included, and all faults; `quick`: but those that need PyTorch."""
    found, faults = {}, []
    for name in values:
        if name not in schema.model_fields:
            faults.append(Fault("unknown", (name,), _unknown(name, schema)))
    for name, field in schema.model_fields.items():
        if name not in values and field.is_required():
            faults.append(Fault("unset", (name,), field.description))
        elif name not in values:
            found[name] = field.get_default(call_default_factory=True)
        else:
            try:
                found[name] = _adapter(schema, name).validate_python(plain(values[name]))
            except ValidationError as error:
                first = error.errors()[0]
                ours = MESSAGES.get(first["type"])
                message = ours.format(**first.get("ctx", {})) if ours else first["msg"].removeprefix("Value error, ")
                faults.append(Fault("value", (name,), f"{message} ({field.description})"))
    faults += _broken(schema.rules, found)
    if quick:
        return found, faults
    # Last: registries and encoders may import PyTorch, and other faults need not wait for it.
    faults = faults or [Fault("value", (name,), message) for name, message in _unknown_entries(schema, found)]
    return found, faults or _broken(schema.encoder_rules, found)


def _broken(rules: Sequence[tuple], found: Mapping[str, Any]) -> list[Fault]:
    """The faults of the rules whose settings all have a value."""
    C = SimpleNamespace(**found)
    known = ((names, must, fits) for names, must, fits in rules if all(name in found for name in names))
    broken = ((names, must) for names, must, fits in known if not fits(C))
    return [Fault("rule", names, must(C) if callable(must) else must) for names, must in broken]


def _unknown(name: str, schema: type[BaseModel]) -> str:
    """One line about a name that is no setting, with the setting that it may mean."""
    close = get_close_matches(name, [*MEANT, *schema.model_fields], n=1)
    hint = f"did you mean {MEANT.get(close[0], close[0])}?" if close else "--settings lists the known ones"
    return f"unknown setting {name!r}; {hint}"


def parse(schema: type[BaseModel], name: str, value: Any) -> Any:
    """Parse the value of one setting: `value` itself if the setting is unknown, `WRONG` if it is not allowed."""
    if name not in schema.model_fields:
        return value
    try:
        return _adapter(schema, name).validate_python(plain(value))
    except ValidationError:
        return WRONG


@lru_cache(maxsize=1000)
def _adapter(schema: type[BaseModel], name: str) -> TypeAdapter:
    field = schema.model_fields[name]
    return TypeAdapter(Annotated[field.annotation, field], config=ConfigDict(allow_inf_nan=False))


def plain(value: Any) -> Any:
    """Convert paths to text, and NumPy's arrays and numbers to Python's."""
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def entries_of(schema: type[BaseModel]) -> dict[str, EntryOf]:
    """The settings whose values name entries of registries."""
    fields = schema.model_fields.items()
    return {name: note for name, field in fields for note in field.metadata if isinstance(note, EntryOf)}


def _unknown_entries(schema: type[BaseModel], found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings whose value is not an entry of their registry; defaults are entries, and cost no import.

    A slow registry is asked only if the others know their entries.
    """
    defaults = {name: field.default for name, field in schema.model_fields.items()}
    chosen = {name: entry.registry for name, entry in entries_of(schema).items() if found[name] != defaults[name]}
    faults: list[tuple[str, str]] = []
    for name, registry in sorted(chosen.items(), key=lambda item: item[1].slow):
        if registry.slow and faults:
            break
        faults += [(name, registry.unknown(one)) for one in _names_in(found[name]) if not registry.knows(one)]
    return faults


def entries_are_known(schema: type[BaseModel], name: str, value: Any) -> bool:
    """False if a setting's value names something that its registry does not have."""
    registry = entries_of(schema)[name].registry
    names = _names_in(value) if isinstance(value, str | list | tuple) else []  # `check` tells of other types
    return all(registry.knows(one) for one in names if isinstance(one, str))


def _names_in(value: Any) -> list[Any]:
    """The names of a setting that chooses entries of a registry."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
