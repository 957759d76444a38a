"""Lists that are drawn from all training images: their sizes, names and content."""

import time
from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.reading import build_reader
from furnace.datasets.splits import read_lines
from furnace.datasets.subsets import Pool, build_pool, labeled_sizes, list_files, read_pool, write_subsets
from furnace.utils.errors import UserError


def test_sizes_round_down_and_leave_no_list_empty():
    assert labeled_sizes(10582, [2, 4, 8, 16], [92]) == {"1-2": 5291, "1-4": 2645, "1-8": 1322, "1-16": 661, "92": 92}
    for ratios, numbers in (([1], []), ([200], []), ([], [100]), ([], [101])):
        with pytest.raises(UserError, match="would leave one of the lists empty"):
            labeled_sizes(100, ratios, numbers)


def test_a_duplicate_line_is_found_at_once(make_settings, tmp_path: Path) -> None:
    lines = [f"images/{i:06d}.png\tlabels/{i:06d}.png" for i in range(30_000)]
    (tmp_path / "list.txt").write_text("\n".join([*lines, lines[-1]]))
    begin = time.monotonic()
    with pytest.raises(UserError, match="occurs twice"):
        read_pool(tmp_path / "list.txt", tmp_path, "", build_reader(make_settings()))
    assert time.monotonic() - begin < 8


def test_a_missing_list_of_all_images_has_advice_for_its_data_set(make_settings) -> None:
    C = make_settings(train_source="nowhere/labeled.txt")
    for name, advice in ((C.dataset_name, r"prepare the data as described"), ("mine", r"--list nowhere/labeled\.txt$")):
        with pytest.raises(UserError, match=rf"\.txt: no such list; name a list of images .* {advice}"):
            build_pool(C.updated(dataset_name=name))


def test_lists_of_a_seed_are_nested_and_complete(make_settings, tmp_path: Path) -> None:
    C = make_settings()
    pool = build_pool(C, Path(C.train_source))
    shown = [set(np.unique(build_reader(C).label(sample.label)).tolist()) - {255} for sample in pool.samples]
    assert [set(np.flatnonzero(row).tolist()) for row in pool.presence] == shown
    sizes = {list_files("x/train_aug_labeled_1-8.txt", name, tmp_path): size for name, size in (("a", 2), ("b", 3))}
    drawn = write_subsets(pool, sizes, 0)
    few, many, rest = (
        {line for _, line in read_lines(tmp_path / f"train_aug_{name}.txt")}
        for name in ("labeled_a", "labeled_b", "unlabeled_b")
    )
    assert few < many and not many & rest and many | rest == set(pool.lines)
    rows = dict(zip(pool.lines, pool.presence, strict=True))
    for path, found in drawn.items():
        expected = sorted(rows[line].tolist() for _, line in read_lines(path))
        assert sorted(found.tolist()) == expected
    with pytest.raises(UserError, match=r"train_aug_labeled_a\.txt: already exists"):
        write_subsets(pool, sizes, 0)
    before = [read_lines(path) for path in drawn]
    write_subsets(pool, sizes, 1, overwrite=True)
    assert [read_lines(path) for path in drawn] != before


def test_labels_are_read_once(make_settings, monkeypatch) -> None:
    C, seen = make_settings(), []
    pool = build_pool(C, Path(C.train_source))
    monkeypatch.setattr(type(pool.files), "label", lambda self, path: seen.append(path) or np.zeros((2, 2), np.uint8))
    assert pool.presence is pool.presence and len(seen) == len(pool.lines) > 1
    assert isinstance(pool, Pool) and pool.presence[:, 0].all()
