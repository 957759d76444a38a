"""Pairs of images and masks, and lists that grow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.pairing import Masks, divide, joined, pair
from furnace.datasets.splits import Lists, Sample
from furnace.utils.errors import UserError
from tests.tiny_data import write_image, write_palette_label


def test_repeated_names_in_sub_folders_are_paired_by_folder(tmp_path: Path):
    for place in ("a", "b"):
        for i in range(3):
            write_image(tmp_path / "photos" / place / f"{i}.png", np.zeros((40, 40, 3), dtype=np.uint8))
            write_palette_label(tmp_path / "masks" / place / f"{i}.png", np.full((40, 40), i, dtype=np.uint8))
    labeled, unlabeled = pair(tmp_path / "photos", tmp_path / "masks")
    assert len(labeled) == 6 and not unlabeled
    for sample in labeled:
        assert sample.image.relative_to(tmp_path / "photos") == sample.label.relative_to(tmp_path / "masks")


def test_a_mask_that_fits_two_images_is_refused(tmp_path: Path):
    for place in ("a", "b"):
        write_image(tmp_path / "photos" / place / "0.png", np.zeros((40, 40, 3), dtype=np.uint8))
    write_palette_label(tmp_path / "masks" / "0.png", np.zeros((40, 40), dtype=np.uint8))
    with pytest.raises(UserError, match=r"0\.png: fits both a/0 and b/0"):
        pair(tmp_path / "photos", tmp_path / "masks")


def test_masks_of_one_sub_folder_leave_the_images_of_the_others_unlabelled(tmp_path: Path):
    """Frames of two drives with the same names, masks of the first drive only."""
    for place in ("a", "b"):
        for i in range(5):
            write_image(tmp_path / "photos" / place / f"{i}.png", np.zeros((40, 40, 3), np.uint8))
    for i in range(5):
        write_palette_label(tmp_path / "masks" / "a" / f"{i}.png", np.full((40, 40), i, np.uint8))
    labeled, unlabeled = pair(tmp_path / "photos", tmp_path / "masks")
    assert [sample.image.parent.name for sample in labeled] == ["a"] * 5
    assert [sample.image.parent.name for sample in unlabeled] == ["b"] * 5


def test_without_masks_all_images_are_unlabelled(tmp_path: Path):
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    labeled, unlabeled = pair(tmp_path, None, least=0)
    assert not labeled and [sample.name for sample in unlabeled] == ["a"]


def test_lists_that_grow_share_no_image(tmp_path: Path):
    """Against sets of names, for random lists; some files are gone, and some images have several paths."""
    rng = np.random.default_rng(0)
    (tmp_path / "link").symlink_to(tmp_path)
    names = [str(number) for number in range(30)]
    for name in names:
        for kind in ("image", "mask"):
            if rng.random() < 0.8:
                (tmp_path / f"{name}.{kind}").touch()

    def sample(name: str, labeled: bool) -> Sample:
        folder = tmp_path / rng.choice(["", "link"])
        return Sample(name, folder / f"{name}.image", folder / f"{name}.mask" if labeled else None)

    def drawn() -> Lists:
        labeled, unlabeled = (
            [sample(name, kind) for name in rng.choice(names, 8, replace=False)] for kind in (True, False)
        )
        return Lists(labeled, unlabeled)

    def there(found: Sample) -> bool:
        return all(path.exists() for path in (found.image, found.label) if path)

    for _ in range(20):
        before, found = drawn(), drawn()
        val = [sample(name, True) for name in rng.choice(names, 4, replace=False)]
        held = {one.name for one in val if one.image.exists()}
        after = joined(before, found, val)
        with_mask = {one.name for one in before.labeled + found.labeled if there(one)} - held
        assert sorted(one.name for one in after.labeled) == sorted(with_mask)
        assert all(there(one) and one.label for one in after.labeled)
        without = {one.name for one in before.unlabeled + found.unlabeled if there(one)} - held - with_mask
        assert sorted(one.name for one in after.unlabeled) == sorted(without)
        kept = [one.name for one in before.labeled if one.name in with_mask]
        assert [one.name for one in after.labeled[: len(kept)]] == kept, "the order of the first lists stays"


def test_labels_are_no_images_and_newer_ones_count(tmp_path: Path):
    for name in ("a.png", "b.png", "old_a.png", "new_a.png", "held.png", "held_mask.png"):
        (tmp_path / name).touch()
    a, held = (
        Sample(name, tmp_path / f"{name}.png", tmp_path / mask)
        for name, mask in (("a", "old_a.png"), ("held", "held_mask.png"))
    )
    newer = replace(a, label=tmp_path / "new_a.png")
    files = [Sample(path.stem, path, None) for path in sorted(tmp_path.iterdir())]
    after = joined(Lists([a], []), Lists([], files), [held])
    assert after.labeled == [a] and [sample.name for sample in after.unlabeled] == ["b", "new_a"]
    after = joined(Lists([a], []), Lists([newer], files), [held])
    assert after.labeled == [newer] and [sample.name for sample in after.unlabeled] == ["b"]


@given(data=st.data(), count=st.integers(3, 40))
def test_training_keeps_all_classes_if_it_can(data: st.DataObject, count: int):
    values = data.draw(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=count, max_size=count))
    share = data.draw(st.floats(0.05, 0.5).filter(lambda share: count - max(round(share * count), 1) >= 2))
    samples = [Sample(str(number), Path(f"{number}.png"), Path(f"{number}.png")) for number in range(count)]
    train, val = divide(samples, [tuple(sorted({*own, 255})) for own in values], share)
    assert sorted(train + val, key=samples.index) == samples and len(val) == max(round(share * count), 1)
    classes = [set(own) for own in values]
    in_train = set().union(*(classes[samples.index(sample)] for sample in train))
    if in_train != set().union(*classes):  # only if other choices lack a class, too
        once = [own for own in classes if any(sum(c in other for other in classes) == 1 for c in own)]
        assert len(val) > count - len(once) or len(val) > count - 7


def test_validation_samples_are_spread_evenly():
    samples = [Sample(str(number), Path("a"), Path("b")) for number in range(10)]
    assert [sample.name for sample in divide(samples, [(0, 1)] * 10, 0.2)[1]] == ["2", "7"]
    assert [sample.name for sample in divide(samples, [(0, 1)] * 7 + [(0, 2)] + [(0, 1)] * 2, 0.2)[1]] == ["2", "6"]


def test_a_mask_of_the_same_name_belongs_to_no_other_image(tmp_path: Path):
    images = [Path(name) for name in ("x0", "x0_L", "sub/x1", "other/x1_L", "x2")]
    for name in ("x0_L", "deep/x1_L", "x2_mask"):
        write_palette_label(tmp_path / f"{name}.png", np.zeros((2, 3), np.uint8))
    chosen = dict(zip(images, Masks(tmp_path).choose(images), strict=True))
    assert chosen == {
        Path("x0"): None,
        Path("x0_L"): tmp_path / "x0_L.png",
        Path("sub/x1"): None,
        Path("other/x1_L"): tmp_path / "deep/x1_L.png",
        Path("x2"): tmp_path / "x2_mask.png",
    }
    with pytest.raises(UserError, match=r"x1_L\.png: fits both a/x1_L and b/x1_L"):
        Masks(tmp_path).choose([*images[:2], Path("a/x1_L"), Path("b/x1_L"), images[4]])
