"""Registries: entries by name, hints for unknown names, and the settings that name entries."""

from functools import partial

import pytest

from furnace.methods.settings import all_settings
from furnace.utils.checking import entries_of
from furnace.utils.errors import UserError
from furnace.utils.names import EntryOf, Registry


@pytest.fixture
def fruits() -> Registry:
    registry = Registry("fruit")
    for name in ("pear", "plum", "peach"):
        registry.register(name)(name.upper())
    return registry


def test_entries_are_found_by_name(fruits):
    assert fruits.find("plum") == "PLUM"
    assert fruits.register("fig")(3) == 3 == fruits.find("fig"), "a decorator gives back what it gets"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pearl", "no fruit 'pearl'; did you mean pear or"), ("xyz", "no fruit 'xyz'; there are: peach, pear, plum")],
)
def test_other_names_get_the_closest_or_all(fruits, name, hint):
    with pytest.raises(UserError, match=hint):
        fruits.find(name)


def test_a_package_is_imported_before_the_first_lookup():
    methods = EntryOf("furnace.methods.method:METHODS").registry
    assert {"cpcl", "cps", "mean_teacher", "supervised"} <= methods.all().keys()


def test_defaults_of_settings_that_name_entries_are_entries():
    """Defaults are not looked up elsewhere."""
    entries = entries_of(all_settings())
    assert entries.keys() == {"method", "backbone", "decoder", "optimizer", "eval_metrics"}
    for name, entry in entries.items():
        field = all_settings().model_fields[name]
        names = [] if field.is_required() else [field.default] if isinstance(field.default, str) else field.default
        assert set(names) <= entry.registry.all().keys(), name


def test_a_name_of_another_module_is_taken(fruits):
    def quince():
        """Of this module, which may register it again."""

    fruits.register("quince")(quince)
    fruits.register("quince")(quince)
    with pytest.raises(UserError, match=r"fruit 'quince': tests\.utils\.test_names has registered this name; choose"):
        fruits.register("quince")(Registry)
    with pytest.raises(UserError, match="has registered this name"):
        fruits.register("quince")(partial(Registry, "fruit"))
    assert fruits["quince"] is quince
    with pytest.raises(UserError, match=r'fruit quince: has no name; write \.register\("NAME"\)'):
        fruits.register(quince)
