"""All settings of an experiment: the common settings and those of the methods."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, ClassVar

from pydantic import BaseModel, create_model

from furnace.base_model.encoders import ENCODERS
from furnace.datasets.catalog import PUBLISHED
from furnace.methods import sizes
from furnace.methods.contract import check_class, check_shared_settings, refuse
from furnace.methods.method import METHODS, Method
from furnace.utils.checking import check, entries_are_known
from furnace.utils.config import read_config
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings

# Settings that describe trained networks: a snapshot's values take precedence over config.py.
OF_SNAPSHOT = {
    "method", "num_classes", "class_names", "dataset_name", "backbone", "decoder", "head_channels", "bn_eps",
    "bn_momentum", "image_mean", "image_std", "image_height", "image_width",  # an encoder may need its crop size
    "teacher",
}  # fmt: skip
OF_TRAINING = {"eval_metrics", "optimizer"}
DEBUG_EPOCHS, DEBUG_ITERATIONS = 2, 10
FAULTS_SHOWN = 3


def _is_known(name: str) -> tuple[tuple[str, ...], str, Callable[[Any], bool]]:
    """Rule that a method allows the value of a setting."""

    def fits(C: Any) -> bool:
        known = METHODS[C.method].known if C.method in METHODS else {}  # an unknown method is reported by another rule
        return name not in known or getattr(C, name) in known[name]

    return (name, "method"), "the method does not support this value; docs/methods.md lists the possible values", fits


RULES = [
    *Settings.rules,
    (
        ("student_views", "strong", "feature_dropout"),
        "two views would be the same; set strong or feature_dropout, or student_views = 1",
        lambda C: C.student_views == 1 or C.strong or C.feature_dropout > 0,
    ),
]


class AllSettings(Settings):
    """Base of the class that `all_settings` creates; pickling its instances stores their values."""

    rules: ClassVar[list] = RULES
    encoder_rules: ClassVar[list] = sizes.RULES

    def __reduce__(self) -> tuple:
        return _restored, (self.model_dump(), self.notes)


def _restored(values: dict[str, Any], notes: tuple[str, ...]) -> Settings:
    return all_settings().noted(values, notes)


def all_settings() -> type[Settings]:
    """The class of all settings. Raises UserError if a method does not fit, see `furnace/methods/contract.py`."""
    methods = METHODS.all()
    for name, method in methods.items():
        check_class(name, method)
    return _joined(tuple((name, method.Settings) for name, method in methods.items()))


@lru_cache(maxsize=4)
def _joined(parts: tuple[tuple[str, type[BaseModel]], ...]) -> type[Settings]:
    check_shared_settings(dict(parts), Settings.model_fields)
    own = dict.fromkeys(part for _, part in parts)  # methods may share a class
    bases = [part for part in own if not any(other is not part and issubclass(other, part) for other in own)]
    schema = create_model("Settings", __base__=(*bases, AllSettings))
    schema.rules = [*RULES, *map(_is_known, schema.model_fields)]
    for name, _ in parts:
        if unknown := (METHODS[name].known.keys() | METHODS[name].published) - schema.model_fields.keys():
            refuse(repr(name), f"known or published has {min(unknown)!r}, which is no setting")
    return schema


def load_config(experiment: str | Path, overrides: Mapping[str, Any] | None = None, quick: bool = False) -> Settings:
    """Run an experiment's config.py and return its checked settings; the arguments are those of `read_config`.

    `quick`: only to show them, in a second. Names of entries are not looked up, nor values that an encoder of a library
    gives.

    Raises:
        UserError: there is no config.py, or it fails; or its settings have faults, one line each.
    """
    overrides = overrides or {}
    config = read_config(experiment, overrides, all_settings())
    schema = all_settings()  # config.py may have registered a method
    concluded = {name: value for name, value in conclude(config.values).items() if name not in config.values}
    values = config.values | concluded
    found, faults = check(schema, values, quick)
    if faults:
        raise UserError("\n".join(config.explained(faults, values)))
    found |= {name: value for name, value in normalisation(found["backbone"], quick).items() if name not in values}
    if found["debug"]:
        found["nepochs"] = min(found["nepochs"], DEBUG_EPOCHS)
        found["niters_per_epoch"] = min(found["niters_per_epoch"], DEBUG_ITERATIONS)
    told = {name: value for name, value in concluded.items() if value != schema.model_fields[name].default}
    C = schema.noted(found)
    if quick:
        return C
    return schema.noted(found, (*config.note(told), *other_normalisations(C), *without_effect(C, overrides)))


def without_effect(C: Settings, names: Iterable[str]) -> Iterator[str]:
    """Notes about settings that are those of other methods."""
    others = {name for method in METHODS.values() for name in method.Settings.model_fields}
    for name in names:
        if name in others - METHODS[C.method].Settings.model_fields.keys():
            yield f"{name}: is no setting of method {C.method!r} and has no effect"


def other_normalisations(C: Settings) -> Iterator[str]:
    """Notes about encoders that were trained with another normalisation than that of the settings."""
    for name in C.backbone.split(",") if "," in C.backbone else ():
        encoder = ENCODERS.find(name)
        if (tuple(encoder.mean), tuple(encoder.std)) != (C.image_mean, C.image_std):
            yield (
                f"C.backbone: {name} was trained with image_mean {encoder.mean} and image_std {encoder.std}; both "
                f"branches use {C.image_mean} and {C.image_std}; set image_mean and image_std to change this"
            )


def conclude(values: Mapping[str, Any]) -> dict[str, Any]:
    """Derive settings that config.py does not assign from those that it assigns.

    For a published config.py, `dataset_path` and `pretrained_model` give the missing values. A method has its own
    defaults.
    """
    found = {name: value for name, value in published(values).items() if name not in values}
    if "dataset_name" not in values:
        found |= PUBLISHED.get(PurePath(str(values.get("dataset_path", ""))).name, {})
    if "backbone" not in values:
        file = PurePath(str(values.get("pretrained_model", ""))).name
        encoders = [name for name in ENCODERS if name in file]
        found |= {"backbone": max(encoders, key=len)} if encoders else {}
    return found


def normalisation(backbone: str, quick: bool = False) -> dict[str, Any]:
    """The default normalisation: that of the first encoder's training; `quick`: words, if it is a library's."""
    name = backbone.partition(",")[0]
    if quick and name not in ENCODERS:
        return dict.fromkeys(("image_mean", "image_std"), f"that of {name}")
    encoder = ENCODERS.find(name)
    return {"image_mean": encoder.mean, "image_std": encoder.std}


def published(values: Mapping[str, Any]) -> dict[str, Any]:
    """The own defaults of the method that `values` name."""
    name = values.get("method", Settings.model_fields["method"].default)
    return METHODS[name].published if isinstance(name, str) and name in METHODS else {}


def open_settings(saved: Mapping[str, Any], path: str | Path, given: Settings | None = None) -> Settings:
    """Settings for using a snapshot.

    Args:
        saved: of the snapshot; empty in files of other programs.
        path: of the snapshot, for messages.
        given: of the experiment; used for all but `OF_SNAPSHOT` and the methods' settings. None: use the snapshot's.

    Raises:
        UserError: the snapshot has no settings and `given` is None, or the settings can't be used.
    """
    if not saved:
        if given is None:
            raise UserError(f"{path}: contains no settings; name the experiment, as with C=load_config('exp_voc')")
        return given
    schema = all_settings()
    if given is None:
        values = published(saved) | {name: value for name, value in saved.items() if name in schema.model_fields}
    else:
        # The methods' settings describe the networks, too, and must fit the method.
        own = {name for method in METHODS.values() for name in method.Settings.model_fields} | OF_SNAPSHOT
        others = {name: value for name, value in given.model_dump().items() if name not in own or name in OF_SNAPSHOT}
        values = others | published(saved) | {name: saved[name] for name in own if name in saved}
        # Class weights belong to training and its number of classes.
        values["class_weight"] = None
        if values.get("num_classes") != given.num_classes:
            values["class_colors"] = ()
    name = values.get("method")  # any value: the file may be damaged
    method = METHODS[name] if isinstance(name, str) and name in METHODS else Method
    for name, allowed in method.known.items():
        if name in Settings.model_fields and values.get(name) not in allowed:
            values[name] = allowed[0]  # of training, which may have been with an older version
    for name in OF_TRAINING & values.keys():  # names that only the training's config.py has registered
        if not entries_are_known(schema, name, values[name]):
            del values[name]
    found, faults = check(schema, values)
    if faults:
        told = "; ".join(map(str, faults[:FAULTS_SHOWN]))
        unknown = {"method", "backbone", "decoder"} & {name for fault in faults for name in fault.names}
        hint = "; import the file that registers it first" if unknown else ""
        raise UserError(f"{path}: its settings can't be used ({told}){hint}")
    return schema.noted(found)
