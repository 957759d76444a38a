"""Labelled subsets of a comparison: those of config.py for each ratio, or lists that are drawn for each seed."""

import re
from collections.abc import Sequence
from pathlib import Path

from furnace.datasets.splits import list_hash
from furnace.datasets.subsets import build_pool, labeled_sizes, list_files, pool_list, write_subsets
from furnace.methods.settings import load_config
from furnace.utils.errors import UserError
from furnace.utils.files import write_atomically
from furnace.utils.settings import Settings

ORIGIN = "drawn_from.txt"  # stored with drawn lists: identifies the list they were drawn from
RATIOS = [16, 8, 4]


def default_ratios(experiment: Path, overrides: dict[str, str]) -> list[int]:
    """`RATIOS`, or the ratio of config.py if it names one labelled list for all."""
    own = load_config(experiment, overrides)
    another = next(ratio for ratio in RATIOS if ratio != own.labeled_ratio)
    other = load_config(experiment, {**overrides, "labeled_ratio": str(another)})
    return [own.labeled_ratio] if other.train_source == own.train_source else RATIOS


def check_ratios(experiment: Path, ratios: Sequence[int], overrides: dict[str, str]) -> None:
    """Raise UserError if config.py names the same labelled list for its own ratio and another."""
    own = load_config(experiment, overrides)
    for ratio in ratios:
        C = load_config(experiment, {**overrides, "labeled_ratio": str(ratio)})
        if ratio != own.labeled_ratio and C.train_source == own.train_source:
            raise UserError(
                f"--ratios {ratio}: C.train_source = {C.train_source} for every C.labeled_ratio; use "
                f"--ratios {own.labeled_ratio}, or name one list per ratio in config.py, as in exp_voc"
            )


def draw_subsets(
    experiment: Path,
    subsets: Path,
    ratios: Sequence[int],
    seeds: Sequence[int],
    overrides: dict[str, str],
    listing: Path | None,
) -> None:
    """Write the missing lists of each seed; smaller lists are subsets of larger ones.

    Lists that were drawn from a `listing` (None: the data set's own) of other content are all written again.
    """
    pool = None
    sources = {ratio: load_config(experiment, {**overrides, "labeled_ratio": str(ratio)}) for ratio in ratios}
    for ratio, C in sources.items():
        if not C.train_source.endswith(f"_labeled_1-{ratio}.txt"):
            raise UserError(
                f"--draw-subsets: C.train_source = {C.train_source}: is not named ..._labeled_1-{ratio}.txt, like the "
                "drawn lists; use this name in config.py, with C.labeled_ratio, or omit --draw-subsets"
            )
    C = sources[ratios[0]]
    origin = list_hash(pool_list(C, listing))
    for seed in seeds:
        folder = subsets / f"seed-{seed}"
        same = (folder / ORIGIN).is_file() and (folder / ORIGIN).read_text(encoding="utf-8") == origin
        there = drawn_ratios(folder)
        needed = [ratio for ratio in ratios if ratio not in there] if same else sorted({*ratios, *there})
        if needed:
            pool = pool or build_pool(C, listing)
            sizes = labeled_sizes(len(pool.lines), needed, ())
            files = {list_files(C.train_source, name, folder): size for name, size in sizes.items()}
            write_subsets(pool, files, seed, overwrite=True)
            write_atomically(folder / ORIGIN, origin.encode())


def drawn_ratios(folder: Path) -> set[int]:
    """The ratios whose labelled and unlabelled lists are in a folder."""

    def ratios(kind: str) -> set[int]:
        names = (re.search(rf"_{kind}_1-(\d+)\.txt$", path.name) for path in folder.glob("*.txt"))
        return {int(name[1]) for name in names if name}

    return ratios("labeled") & ratios("unlabeled")


def subset_sources(C: Settings, subsets: Path, seed: int) -> dict[str, str]:
    """The lists of a seed for the ratio of the settings."""
    labeled, unlabeled = list_files(C.train_source, f"1-{C.labeled_ratio}", subsets / f"seed-{seed}")
    return {"train_source": str(labeled), "unsup_source": str(unlabeled)}
