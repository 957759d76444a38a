"""Batches that can't be divided, lists that differ between machines, and classes in no training label."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from furnace.datasets.loaders import build_train_set
from furnace.datasets.splits import read_lines
from furnace.engine import preconditions
from furnace.engine.distributed import CPU
from furnace.engine.preconditions import check_classes, check_files, check_lists, check_settings, check_shares
from furnace.seg_opr.whole_batch import WholeBatch
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


@pytest.mark.parametrize(
    "processes, sync_bn, device, fits",
    [(8, True, "cuda", True), (8, False, "cuda", False), (8, True, "cpu", False), (3, True, "cuda", False)],
)
def test_batches_are_divided_so_that_batchnorm_sees_two_images(
    make_settings, processes: int, sync_bn: bool, device: str, fits: bool
):
    """If synchronised, BatchNorm sees the images of all processes: the published batch of eight fits eight GPUs."""
    C = make_settings(batch_size=8, sync_bn=sync_bn)
    with nullcontext() if fits else pytest.raises(UserError, match=r"C\.batch_size = 8 must give"):
        check_shares(C, processes, torch.device(device))


@pytest.mark.parametrize("method", ["unimatch_v2", "supervised_strong"])
def test_a_share_that_is_mixed_with_itself_has_two_images(make_settings, method: str):
    C = make_settings(batch_size=8, sync_bn=True, method=method)
    check_shares(C, 4, torch.device("cuda"))
    with pytest.raises(UserError, match=r"at least 2 image\(s\) for BatchNorm and CutMix, for example 16"):
        check_shares(C, 8, torch.device("cuda"))


def test_masks_among_the_unlabelled_images_are_refused(make_settings, voc_root: Path):
    C = make_settings(unsup_source=str(voc_root / "train_aug/image"))
    check_files(C, build_train_set(C))
    C = make_settings(unsup_source=str(voc_root / "train_aug"))
    with pytest.raises(UserError, match=r"^C\.unsup_source = .*train_aug: has 5 masks of other lists, such as "):
        check_files(C, build_train_set(C))


def test_a_crop_far_larger_than_the_images_is_noted(make_settings):
    C = make_settings(image_height=512, image_width=512)
    (note,) = check_files(C, build_train_set(C))
    assert note.startswith("C.image_height x C.image_width = 512 x 512: images of ")


def test_missing_unlabelled_images_are_named_before_the_first_iteration(make_settings, voc_root: Path):
    C = make_settings()
    first, *_, sample = build_train_set(C).unlabeled
    (voc_root / "list.txt").write_text(f"{sample.image}\n{first.image}\n")
    sample.image.unlink()
    C = C.updated(unsup_source=str(voc_root / "list.txt"))
    with pytest.raises(
        UserError, match=rf"{sample.image.name}: no such file; .* correct .*list\.txt, which names 1 missing file$"
    ):
        check_files(C, build_train_set(C))
    assert check_files(C.updated(on_bad_image="skip"), build_train_set(C)) == []


def test_images_of_both_training_lists_are_noted_unless_all_are(make_settings, voc_root: Path):
    C = make_settings()
    labeled, unlabeled = (read_lines(source) for source in (C.train_source, C.unsup_source))
    for count, notes in ((1, 1), (len(labeled), 0)):
        mixed = voc_root / "mixed.txt"
        mixed.write_text("\n".join(line for _, line in (*labeled[:count], *unlabeled)))
        found = check_files(C.updated(unsup_source=str(mixed)), build_train_set(C.updated(unsup_source=str(mixed))))
        assert len(found) == notes and all("1 image in both C.train_source and C.unsup" in note for note in found)


def test_evaluation_images_among_the_training_images_are_noted(make_settings):
    C = make_settings()
    assert check_files(C, build_train_set(C)) == []
    evaluated = Path(C.dataset_path) / C.eval_folder / "image"
    leaky = C.updated(unsup_source=str(evaluated))
    count = len(build_train_set(leaky).unlabeled)
    (note,) = check_files(leaky, build_train_set(leaky))
    assert note.startswith(f"{count} images of C.eval_source are among the training images, such as {evaluated}")
    assert check_files(leaky.updated(eval_source="nowhere.txt"), build_train_set(leaky)) == []
    learned = C.updated(eval_source=C.train_source, eval_folder=C.train_folder)
    (note,) = check_files(learned, build_train_set(learned))
    assert note.startswith(f"{len(build_train_set(C).labeled)} images of C.eval_source are among")
    masks = C.updated(unsup_source=str(evaluated.parent / "label"))
    with pytest.raises(UserError, match="masks of other lists"):
        check_files(masks, build_train_set(masks))
    build_train_set(C).labeled[0].label.unlink()
    with pytest.raises(UserError, match=r"label/\w+\.png: no such file; .* correct .*, which names 1 missing"):
        check_files(C, build_train_set(C))


def test_machines_with_other_lists_are_named(make_settings, monkeypatch: pytest.MonkeyPatch):
    class Two(WholeBatch):
        def gather(self, value: torch.Tensor) -> torch.Tensor:
            return torch.cat([value, value + other])

    C = make_settings()
    dataset = build_train_set(C)
    monkeypatch.setattr(preconditions, "whole_batch", Two)
    other = 0
    check_lists(C, dataset, CPU)
    other = 5
    with pytest.raises(UserError, match=r"^C\.train_source and C\.unsup_source: process 1 has other images"):
        check_lists(C, dataset, CPU)


def test_processes_with_other_settings_are_named(make_settings, monkeypatch: pytest.MonkeyPatch):
    own = make_settings(lr=0.1, num_workers=1)

    def check(**changes) -> None:
        monkeypatch.setattr(preconditions, "gather_objects", lambda share: [share, share | changes])
        check_settings(own)

    check()
    with pytest.raises(
        UserError, match=r"^C\.lr is 0\.2 in process 1, but 0\.1 in the first; give all processes the same"
    ):
        check(**{"C.lr": 0.2})
    with pytest.raises(UserError, match=r"^C\.newer is 1 in process 1, but unknown in the first"):
        check(**{"C.newer": 1})
    shares = []
    monkeypatch.setattr(preconditions, "gather_objects", lambda share: shares.append(share) or [share])
    for C in (own, make_settings(lr=0.1, num_workers=2, log_dir="/elsewhere", train_source="/data/list.txt")):
        check_settings(C)
    assert shares[0] == shares[1] and {"C.seed", "C.batch_size", "C.record_info_iter"} < shares[0].keys()
