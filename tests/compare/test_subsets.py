"""Lists that are drawn for each seed: their places, and which of them are missing."""

from pathlib import Path
from types import SimpleNamespace

from furnace.compare.subsets import drawn_ratios, subset_sources


def test_the_lists_of_each_seed_have_their_own_folder() -> None:
    C = SimpleNamespace(train_source="/data/subset/train_labeled_1-8.txt", labeled_ratio=8)
    assert subset_sources(C, Path("/out"), 3) == {
        "train_source": "/out/seed-3/train_labeled_1-8.txt",
        "unsup_source": "/out/seed-3/train_unlabeled_1-8.txt",
    }


def test_only_complete_pairs_of_lists_count(tmp_path: Path) -> None:
    assert drawn_ratios(tmp_path / "nowhere") == set()
    for name in ("labeled_1-8", "unlabeled_1-8", "labeled_1-4", "unlabeled_1-2", "labeled_92", "unlabeled_92"):
        (tmp_path / f"train_{name}.txt").touch()
    assert drawn_ratios(tmp_path) == {8}
