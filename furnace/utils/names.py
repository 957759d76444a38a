"""Registries of everything that settings choose by name."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

from furnace.utils.errors import UserError

Entry = TypeVar("Entry")
SHOWN, LONGEST = 3, 80  # names in a message, characters of each
WEAK, STRONG = "weak", "strong"  # views of an image: the geometry alone, and colours changed


class Registry(dict[str, Entry]):
    """Entries by name; `@REGISTRY.register("name")` adds one.

    Args:
        kind: word for an entry in messages, such as "method".
        package: all its modules are imported before the first look-up, so that a new file is enough for a new entry.

    Attributes:
        slow: True if looking up a name may take seconds.
    """

    slow = False

    def __init__(self, kind: str, package: str | None = None):
        super().__init__()
        self.kind, self.package = kind, package

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that adds a class or function under a name.

        Raises:
            UserError: another module has taken the name; or it is missing, as in `@REGISTRY.register` without brackets.
        """
        if not isinstance(name, str):
            raise UserError(f'{self.kind} {getattr(name, "__name__", name)}: has no name; write .register("NAME")')

        def add(entry: Entry) -> Entry:
            if name in self and (taken := module_of(self[name])) != module_of(entry):
                raise UserError(f"{self.kind} {name!r}: {taken} has registered this name; choose another one")
            self[name] = entry
            return entry

        return add

    def all(self) -> "Registry[Entry]":
        """The registry itself, with all entries of its package."""
        if self.package:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        return self

    def knows(self, name: str) -> bool:
        """True if there is an entry of that name."""
        return name in self.all()

    def find(self, name: str) -> Entry:
        """The entry of a name. Raises UserError with the closest names if there is none."""
        if not self.knows(name):
            raise UserError(self.unknown(name))
        return self[name]

    def unknown(self, name: str) -> str:
        """One line about a name without an entry."""
        close = get_close_matches(name, self, n=SHOWN)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(self))}"
        return f"no {self.kind} {name[:LONGEST]!r}; {hint}"


def module_of(entry: object) -> str:
    """The module that made an entry: that of a class or function, or of a function that an object holds."""
    inner = getattr(entry, "build", entry)
    return getattr(getattr(inner, "func", inner), "__module__", "")


@dataclass(frozen=True)
class EntryOf:
    """Annotation of a setting whose value names an entry of a registry, or several: `Annotated[str, EntryOf(...)]`.

    Args:
        place: of the registry, such as "furnace.engine.optim:OPTIMIZERS"; it is imported when a check needs it.
    """

    place: str

    @property
    def registry(self) -> Registry:
        return pkgutil.resolve_name(self.place)
