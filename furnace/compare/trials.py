"""Trials of a comparison: one per method, share of labels and seed, each with a record on disk."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from furnace import engine
from furnace.compare.subsets import subset_sources
from furnace.datasets.splits import Sample, read_lines, read_list
from furnace.methods.method import METHODS
from furnace.methods.settings import all_settings, load_config
from furnace.utils.config import parse_overrides
from furnace.utils.errors import UserError
from furnace.utils.files import write_atomically
from furnace.utils.settings import COSTS, PLACES, Settings
from furnace.utils.wording import LISTS

RECORD = "trial.json"
LONGEST_NAME = 120
# Identities have the content of the lists instead of these settings.
SOURCES = {"dataset_path", "train_source", "unsup_source", "eval_source"}
# Settings that a comparison sets per trial, and settings that must be equal in all trials to compare rows.
OF_A_TRIAL = {"method", "labeled_ratio", "seed", "log_dir", "snapshot_dir"}
OF_ALL = {"eval_source", "eval_folder", "eval_metrics"}


@dataclass(frozen=True)
class ValidationList:
    """A labelled list for choosing the best epoch, and the sub-folder of its images for lists of ids."""

    source: str
    folder: str


@dataclass(frozen=True)
class Trial:
    """One run: `method` as the user wrote it, `overrides` all settings that differ from config.py, `C` the result."""

    method: str
    ratio: int
    seed: int
    folder: Path
    overrides: dict[str, str]
    C: Settings
    validation: ValidationList | None = None

    @property
    def name(self) -> str:
        return f"{self.method} 1/{self.ratio} seed {self.seed}"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshot"

    @property
    def iterations(self) -> int:
        return self.C.total_iterations

    @property
    def labeled(self) -> int:
        """Number of labelled images."""
        return len(read_lines(self.C.train_source))

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on: settings, and digests of the lists and the files in them.

        Raises:
            UserError: a list or one of its images is missing.
        """
        # With a validation list, pruned epochs can't be chosen as the best.
        costs = COSTS - {"keep_snapshots"} if self.validation else COSTS
        samples = self.samples().items()
        digests = {name: engine.samples_digest(listed, name != "unlabeled") for name, listed in samples}
        return {"settings": self.C.model_dump(exclude=PLACES | SOURCES | costs), "lists": digests}

    def samples(self) -> dict[str, list[Sample]]:
        """The samples of each list that the result depends on. Raises UserError if one is missing."""
        C = self.C
        lists = {
            "labeled": read_list(C.train_source, C.dataset_path, C.train_folder),
            "test": read_list(C.eval_source, C.dataset_path, C.eval_folder),
        }
        if METHODS.find(C.method).unlabeled:
            lists["unlabeled"] = read_list(C.unsup_source, C.dataset_path, C.train_folder, labeled=False)
        if self.validation:
            lists["validation"] = read_list(self.validation.source, C.dataset_path, self.validation.folder)
        return lists

    def record(self) -> dict[str, Any]:
        """Content of `trial.json`, {} without one. Raises UserError if it can't be read, or is from another run."""
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            difference = first_difference(record["identity"], self.identity())
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: can't be read ({error!r}); remove it and the files next to it") from error
        if difference:
            raise UserError(
                f"{self.folder}: is from another run: {difference}; choose another folder (--out), or remove this one"
            )
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        write_atomically(self.folder / RECORD, json.dumps(record, indent=1).encode())

    @property
    def result(self) -> dict[str, Any] | None:
        """Result of the trial, None until it is finished."""
        return self.record().get("result")

    def arguments(self, **changes: str) -> list[str]:
        """`-o key=value` for train.py and eval.py."""
        return [part for name, value in {**self.overrides, **changes}.items() for part in ("-o", f"{name}={value}")]


def first_difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Text of the first difference of two identities, or None. Settings that `there` lacks have their defaults."""
    defaults = {name: field.default for name, field in all_settings().model_fields.items()}
    for name, value in here["settings"].items():
        old, new = (json.loads(json.dumps(it)) for it in (there["settings"].get(name, defaults[name]), value))
        if old != new:
            return f"{name} = {old} there, {new} here"
    names = sorted(
        name for name in {*there["lists"], *here["lists"]} if there["lists"].get(name) != here["lists"].get(name)
    )
    return f"the {LISTS[names[0]]} images or labels differ" if names else None


def split_methods(text: str) -> list[str]:
    """The methods of a list, each once; values of their settings may contain commas, too.

    A part after a method with settings that does not begin with a method's name belongs to the last of these settings.
    """
    methods: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if methods and ":" in methods[-1] and part.partition(":")[0].strip() not in METHODS.all():
            methods[-1] += f",{part}"
        else:
            methods.append(part)
    return list(dict.fromkeys(methods))


def parse_method(text: str) -> dict[str, str]:
    """The settings of `NAME[:key=value...]`, such as "cpcl:reweight=false".

    Raises:
        UserError: the method is unknown, or a setting can't be chosen per method.
    """
    name, *pairs = (part.strip() for part in text.split(":"))
    if name not in METHODS.all():
        raise UserError(f"--methods {text}: {METHODS.unknown(name)}")
    settings = parse_overrides(pairs)
    if taken := OF_A_TRIAL & settings.keys():
        raise UserError(f"--methods {text}: {min(taken)} is set for each run; leave it out")
    if shared := OF_ALL & settings.keys():
        raise UserError(
            f"--methods {text}: all methods share the evaluation images and metrics; use -o {min(shared)}=..."
        )
    for other in METHODS.values():
        if foreign := settings.keys() & other.Settings.model_fields.keys() - METHODS[name].Settings.model_fields.keys():
            raise UserError(f"--methods {text}: {min(foreign)} is no setting of this method and has no effect")
    return {"method": name, **settings}


def plan_trials(
    experiment: Path,
    out: Path,
    methods: Sequence[str],
    ratios: Sequence[int],
    seeds: Sequence[int],
    overrides: dict[str, str],
    validation: ValidationList | None = None,
    subsets: Path | None = None,
) -> list[Trial]:
    """All trials, seed by seed: if interrupted, the finished ones are already a comparison.

    Args:
        experiment: folder with config.py, train.py and eval.py.
        out: folder that gets one folder per trial.
        methods: as for `parse_method`.
        ratios, seeds: values of `C.labeled_ratio` and `C.seed`.
        overrides: settings of all trials.
        validation: list for choosing the best epoch.
        subsets: folder with the lists of each seed in `seed-N`; None: all trials use those of config.py.
    """
    trials = []
    for seed in seeds:
        for ratio in ratios:
            for method in methods:
                folder = out / f"{folder_name(method)}_1-{ratio}_seed-{seed}"
                own = {**overrides, **parse_method(method), "labeled_ratio": str(ratio), "seed": str(seed)}
                own |= {"log_dir": str(folder), "snapshot_dir": str(folder / "snapshot")}
                C = load_config(experiment, own)
                if subsets:
                    own |= subset_sources(C, subsets, seed)
                    C = load_config(experiment, own)
                trials.append(Trial(method, ratio, seed, folder, own, C, validation))
    return trials


def folder_name(method: str) -> str:
    """A method with its settings as part of a folder's name; long names are cut and end with a digest."""
    name = re.sub(r"[^\w.,+=-]+", "-", method.replace(":", "_").replace("=", "-"))
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{sha256(method.encode()).hexdigest()[:8]}"


def check_validation(trial: Trial) -> None:
    """Check a trial's validation list.

    Raises:
        UserError: the list shares images, also as links or copies, with the evaluation or training images, or the trial
            does not keep all epochs to choose from.
    """
    if trial.validation is None:
        return
    if trial.C.keep_snapshots:
        raise UserError(
            f"--validation: C.keep_snapshots = {trial.C.keep_snapshots} leaves only the last epochs to choose from; "
            "use -o keep_snapshots=0"
        )
    lists = trial.samples()
    held = {engine.file_digest(sample.image): sample.image for sample in lists.pop("validation")}
    for name, samples in lists.items():
        if shared := held.keys() & {engine.file_digest(sample.image) for sample in samples}:
            raise UserError(
                f"--validation {trial.validation.source}: shares {len(shared)} images with the {LISTS[name]} images, "
                f"such as {min(held[digest] for digest in shared)}; the choice of an epoch on them would be biased"
            )
