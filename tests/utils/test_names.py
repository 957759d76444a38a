"""Registries: entries by name, and lines that help with names that they don't have."""

import pytest

from furnace.utils.errors import UserError
from furnace.utils.names import CHOICES, Registry


@pytest.fixture
def fruits(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setitem(CHOICES, "fruit", None)  # restored after the test
    registry = Registry("fruit", "fruit")
    for name in ("pear", "plum", "peach"):
        registry.register(name)(name.upper())
    return registry


def test_entries_are_found_by_name(fruits):
    assert CHOICES["fruit"] is fruits and fruits.find("plum") == "PLUM"
    assert fruits.register("fig")(3) == 3 == fruits.find("fig"), "a decorator gives back what it gets"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pearl", "no fruit 'pearl'; did you mean pear or"), ("xyz", "no fruit 'xyz'; there are: peach, pear, plum")],
)
def test_other_names_get_the_closest_or_all(fruits, name, hint):
    with pytest.raises(UserError, match=hint):
        fruits.find(name)


def test_a_package_is_imported_before_the_first_look():
    assert {"cpcl", "cps", "mean_teacher", "supervised"} <= CHOICES["method"].all().keys()
