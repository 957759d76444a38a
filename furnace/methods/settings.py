"""All settings of an experiment: the common ones, and those that the methods own."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, ClassVar

from pydantic import BaseModel, create_model

from furnace.base_model.encoders import ENCODERS
from furnace.datasets.catalog import PUBLISHED
from furnace.methods import sizes
from furnace.methods.method import METHODS
from furnace.utils import config
from furnace.utils.checking import check
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings, joined

# What describes trained networks: a snapshot decides it, whatever config.py says.
OF_SNAPSHOT = {
    "method", "num_classes", "class_names", "dataset_name", "backbone", "decoder", "head_channels", "bn_eps",
    "bn_momentum", "image_mean", "image_std", "image_height", "image_width",  # crops that the encoder takes
}  # fmt: skip
FAULTS_SHOWN = 3


class AllSettings(Settings):
    """Base of the class that `all_settings` makes, whose instances go to other processes by their values."""

    rules: ClassVar[list] = [*Settings.rules, *sizes.RULES]

    def __reduce__(self) -> tuple:
        return _restored, (self.model_dump(), self.notes)


def _restored(values: dict[str, Any], notes: tuple[str, ...]) -> Settings:
    return all_settings().noted(values, notes)


def all_settings() -> type[Settings]:
    """The class of all settings."""
    return _joined(tuple(method.Settings for method in METHODS.all().values()))


@lru_cache(maxsize=4)
def _joined(parts: tuple[type[BaseModel], ...]) -> type[Settings]:
    own = dict.fromkeys(parts)  # methods may share theirs
    bases = [part for part in own if not any(other is not part and issubclass(other, part) for other in own)]
    return create_model("Settings", __base__=(*bases, AllSettings))


def load_config(folder: str | Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Run `folder`/config.py and return its checked settings; see `furnace.utils.config.load_config`."""
    C = config.load_config(folder, overrides, all_settings, conclude)
    return C.noted(C.model_dump(), (*C.notes, *other_normalisations(C)))


def other_normalisations(C: Settings) -> Iterator[str]:
    """Notes about encoders that were trained with another normalisation than all images get."""
    for name in C.backbone.split(",") if "," in C.backbone else ():
        encoder = ENCODERS.find(name)
        if (tuple(encoder.mean), tuple(encoder.std)) != (C.image_mean, C.image_std):
            yield (
                f"C.backbone: {name} was trained with image_mean {encoder.mean} and image_std {encoder.std}, both "
                f"branches get {C.image_mean} and {C.image_std}; assign them to choose others"
            )


def conclude(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that config.py does not assign, from those that it does.

    What a published one does not say follows from its `dataset_path` and `pretrained_model`, and the normalisation is
    that of the encoder.
    """
    found = {}
    if "dataset_name" not in values:
        found |= PUBLISHED.get(PurePath(str(values.get("dataset_path", ""))).name, {})
    if "backbone" not in values:
        file = PurePath(str(values.get("pretrained_model", ""))).name
        encoders = [name for name in ENCODERS if name in file]
        found |= {"backbone": max(encoders, key=len)} if encoders else {}
    first = str(joined(values.get("backbone", found.get("backbone")))).partition(",")[0]
    if ENCODERS.knows(first) and not {"image_mean", "image_std"} & values.keys():
        encoder = ENCODERS.find(first)
        found |= {"image_mean": encoder.mean, "image_std": encoder.std}
    return found


def open_settings(saved: Mapping[str, Any], path: str | Path, given: Settings | None = None) -> Settings:
    """The settings with which a snapshot is used.

    Args:
        saved: of the snapshot; empty in files of other programs.
        path: of the snapshot, for messages.
        given: of the experiment; all but `OF_SNAPSHOT` are taken from here. None: everything from the snapshot.

    Raises:
        UserError: the snapshot has no settings and there are no others, or they can't be used.
    """
    if not saved:
        if given is None:
            raise UserError(f"{path}: holds no settings; name the experiment, as with C=load_config('exp_voc')")
        return given
    schema = all_settings()
    if given is None:
        values = {name: value for name, value in saved.items() if name in schema.model_fields}
    else:
        values = given.model_dump() | {name: saved[name] for name in OF_SNAPSHOT if name in saved}
        # Weights of the loss belong to training, and to its number of classes.
        values["class_weight"] = None
    found, faults = check(schema, values)
    if faults:
        told = "; ".join(f"{', '.join(fault.names)}: {fault.message}" for fault in faults[:FAULTS_SHOWN])
        raise UserError(f"{path}: its settings can't be used ({told})")
    return schema.noted(found)
