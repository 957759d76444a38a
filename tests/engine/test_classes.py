"""Classes in no training label: an error for one's own data, a note for the catalog's, nothing if they are allowed."""

from pathlib import Path

import numpy as np
import pytest

from furnace.datasets.loaders import build_train_set
from furnace.engine.trainer import check_classes
from furnace.utils.errors import UserError
from tests.tiny_data import write_palette_label


@pytest.fixture
def without_most(voc_root: Path) -> None:
    """Replace all training labels by labels of classes 0 and 1 only."""
    for path in (voc_root / "train_aug/label").glob("*.png"):
        write_palette_label(path, np.eye(40, dtype=np.uint8))


def test_all_classes_are_shown(make_settings):
    C = make_settings(dataset_name="mine")
    assert check_classes(C, build_train_set(C)) == []


@pytest.mark.usefixtures("without_most")
def test_classes_that_no_label_shows(make_settings):
    C = make_settings(dataset_name="mine", num_classes=3, class_names="sky,road,leaf")
    with pytest.raises(UserError, match=r"no label shows leaf; .* set C\.allow_absent_classes = True"):
        check_classes(C, build_train_set(C))
    C = C.updated(allow_absent_classes=True)
    assert check_classes(C, build_train_set(C)) == []
    C = make_settings()
    (note,) = check_classes(C, build_train_set(C))
    assert note.endswith("no label shows bicycle, bird, boat and 16 more")
