"""Published partitions are recognised by their content alone."""

import hashlib
import re
from collections import Counter

import pytest

from furnace.datasets.protocols import (
    PROTOCOLS,
    SUBSETS,
    UNIMATCH,
    UNIMATCH_DESTINATIONS,
    Layout,
    check_partition,
    find_partitions,
    recognize,
    shared_images,
)
from furnace.utils.errors import UserError

IDS = ["2007_000032", "2007_000039", "2007_000063"]
LAYOUT = Layout({rf"{SUBSETS}(train_(?:un)?labeled_1-\d+\.txt)": r"sub/\1"}, lambda line: [f"image/{line}.jpg"])


@pytest.mark.parametrize(
    "content, name",
    [
        ("\n".join(IDS), "three of VOC"),
        ("\n".join(reversed(IDS)) + "\n", "three of VOC"),
        ("\r\n".join(IDS), "three of VOC"),
        ("\n\n  " + " \n\n".join(IDS) + "\n\n", "three of VOC"),
        ("\n".join(IDS[:2]), None),
        ("\n".join([*IDS, IDS[0]]), None),
        ("".join(IDS), None),
    ],
)
def test_a_list_is_recognised_by_its_lines_in_any_order(content, name, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, hashlib.sha256("\n".join(IDS).encode()).hexdigest(), "three of VOC")
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode())
    assert recognize(path) == name


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match="no such list"):
        recognize(tmp_path / "list.txt")


def test_the_table_is_complete_and_unambiguous():
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in PROTOCOLS)
    assert max(Counter(PROTOCOLS.values()).values()) == 1
    for data, names in {
        "Cityscapes": ["1/2", "1/4", "1/8", "1/16"],
        "VOC augmented": ["1/2", "1/4", "1/8", "1/16"],
        "VOC few labels": ["92", "183", "366", "732"],
    }.items():
        for name in names:
            for kind in ("labelled", "unlabelled"):
                assert f"{data} {name}, {kind}" in PROTOCOLS.values()


def test_the_table_of_unimatch_is_complete_and_unambiguous(tmp_path, monkeypatch):
    assert all(re.fullmatch(r"[0-9a-f]{24}", key) for key in UNIMATCH)
    assert max(Counter(UNIMATCH.values()).values()) == 1 and not set(UNIMATCH.values()) & set(PROTOCOLS.values())
    for data, names in {
        "Pascal": ["92", "183", "366", "732", "1464"],
        "Cityscapes": ["1/30", "1/16", "1/8", "1/4", "1/2"],
        "ADE20K": ["1/64", "1/32", "1/16", "1/8", "1/4", "1/2"],
    }.items():
        expected = {f"UniMatch {data} {name}, {kind}" for name in names for kind in ("labelled", "unlabelled")}
        assert expected | {f"UniMatch {data} val"} <= set(UNIMATCH.values())
    coco = {f"UniMatch COCO {name}, labelled" for name in ("1/512", "1/256", "1/128", "1/64", "1/32")}
    assert coco | {"UniMatch COCO val"} <= set(UNIMATCH.values())
    lines = [f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in IDS]
    monkeypatch.setitem(UNIMATCH, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24], "three, labelled")
    (tmp_path / "labeled.txt").write_text("\n".join(reversed(lines)) + "\n")
    assert recognize(tmp_path / "labeled.txt") == "three, labelled"


def test_lists_are_found_beside_and_below(tmp_path):
    (tmp_path / "subset_train").mkdir()
    (tmp_path / "subset_train" / "train_labeled_1-2.txt").write_text("a\r\nb")
    (tmp_path / "train_unlabeled_1-2.txt").write_text("c\na\n")
    (tmp_path / "notes.txt").write_text("other")
    found = {partition.destination: partition.lines for partition in find_partitions(tmp_path, LAYOUT)}
    assert found == {"sub/train_labeled_1-2.txt": ["a", "b"], "sub/train_unlabeled_1-2.txt": ["c", "a"]}
    (tmp_path / "train_labeled_1-2.txt").write_text("a")
    with pytest.raises(UserError, match=r"both are sub/train_labeled_1-2.txt"):
        find_partitions(tmp_path, LAYOUT)


def test_missing_images_are_counted_and_shared_ones_noted(tmp_path):
    (tmp_path / "train_labeled_1-2.txt").write_text("a\nb")
    (tmp_path / "train_unlabeled_1-2.txt").write_text("c\na\n")
    partitions = find_partitions(tmp_path, LAYOUT)
    check_partition(partitions[0], LAYOUT, lambda path: path in ("image/a.jpg", "image/b.jpg"))
    with pytest.raises(UserError, match=r"1 files of the list .*\(image/b.jpg\)"):
        check_partition(partitions[0], LAYOUT, lambda path: path == "image/a.jpg")
    assert shared_images(partitions) == ["sub/train_labeled_1-2.txt shares 1 with its unlabelled list (a)"]


def test_lists_of_all_of_ade20k_are_the_published_ones(tmp_path):
    """Their lines follow from the official names, so this also checks the names of the prepared files."""
    for split, name, count, protocol in (
        ("training", "train", 20210, "UniMatch ADE20K all, labelled"),
        ("validation", "val", 2000, "UniMatch ADE20K val"),
    ):
        names = [f"ADE_{name}_{number:08d}" for number in range(1, count + 1)]
        lines = [f"images/{split}/{name}.jpg annotations/{split}/{name}.png" for name in names]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        assert recognize(tmp_path / "list.txt") == protocol


def test_lists_in_the_folders_of_unimatch_get_our_names(tmp_path):
    layout = Layout(UNIMATCH_DESTINATIONS, str.split)
    for name in ("1_64/labeled", "1_64/unlabeled", "all/labeled", "val", "notes", "1_64/notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text(f"{name}.jpg {name}.png")
    found = {partition.destination: partition.lines for partition in find_partitions(tmp_path, layout)}
    places = {
        "subset_train/train_labeled_1-64.txt": "1_64/labeled",
        "subset_train/train_unlabeled_1-64.txt": "1_64/unlabeled",
        "train.txt": "all/labeled",
        "val.txt": "val",
    }
    assert found == {destination: [f"{name}.jpg {name}.png"] for destination, name in places.items()}
