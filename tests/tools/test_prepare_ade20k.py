"""The ADE20K preparation and exp_ade20k: official labels are kept, and all readers give the same classes."""

import re
from pathlib import Path

import numpy as np
import pytest

from furnace.checks import checkup
from furnace.datasets.loaders import build_eval_loader, build_files, build_train_set
from furnace.datasets.randomness import Purpose
from furnace.datasets.reading import build_reader
from furnace.datasets.splits import read_list
from furnace.engine.preconditions import check_classes
from furnace.methods.settings import load_config
from furnace.tools import doctor, make_splits
from furnace.tools.prepare_ade20k import main
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY
from tests.official_archives import ADE20K_NAMES, ade20k_label, ade20k_members, png, write_folder, write_zip

EXPERIMENT = REPOSITORY / "exp_ade20k"
LABELED = ADE20K_NAMES["training"][::2]
SMALL = {"image_height": 12, "image_width": 16, "train_scale_array": "1", "batch_size": 2, "niters_per_epoch": 3}


def lines(names: list[str]) -> list[str]:
    splits = {name: split for split, names in ADE20K_NAMES.items() for name in names}
    return [f"images/{splits[n]}/{n}.jpg annotations/{splits[n]}/{n}.png" for n in names]


def expected(name: str) -> np.ndarray:
    """Classes of a label, pixel by pixel."""
    return np.array([[255 if value == 0 else int(value) - 1 for value in row] for row in ade20k_label(name)])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "ADEChallengeData2016.zip", ade20k_members())


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Lists in the folders of UniMatch; 1/4 has no unlabelled list."""
    everything, folder = ADE20K_NAMES["training"], tmp_path / "splits"
    rest = [name for name in everything if name not in LABELED]
    contents = {"1_2/labeled": LABELED, "1_2/unlabeled": rest, "1_4/labeled": LABELED[:3], "all/labeled": everything}
    for name, names in (contents | {"val": ADE20K_NAMES["validation"]}).items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(reversed(lines(names))))
    return folder


@pytest.fixture
def prepared(archive: Path, lists: Path, tmp_path: Path) -> Path:
    """The folder for C.volna, with prepared data."""
    main([str(archive), "--target", str(tmp_path / "DATA" / "ade20k"), "--splits-from", str(lists)])
    return tmp_path


def load(volna: Path, **changes):
    settings = {"volna": volna, "labeled_ratio": 2, **SMALL, **changes}
    return load_config(EXPERIMENT, {name: str(value) for name, value in settings.items()})


@pytest.mark.parametrize("form", ["zip", "extracted", "extracted/ADEChallengeData2016"])
def test_official_names_and_files_are_kept(form, archive, tmp_path):
    members = ade20k_members()
    source = archive if form == "zip" else write_folder(tmp_path / "extracted", members) and tmp_path / form
    target = tmp_path / "out"
    main([str(source), "--target", str(target)])
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.*g")}
    prefix = "ADEChallengeData2016/"
    assert found == {name.removeprefix(prefix): member for name, member in members.items() if not name.endswith("txt")}
    assert (target / "train.txt").read_text().splitlines() == lines(ADE20K_NAMES["training"])
    assert (target / "val.txt").read_text().splitlines() == lines(ADE20K_NAMES["validation"])


def test_lists_of_unimatch_are_installed_and_completed(prepared, capsys):
    folder = prepared / "DATA/ade20k/subset_train"
    rest = [name for name in ADE20K_NAMES["training"] if name not in LABELED[:3]]
    assert sorted((folder / "train_labeled_1-4.txt").read_text().splitlines()) == lines(LABELED[:3])
    assert (folder / "train_unlabeled_1-4.txt").read_text().splitlines() == lines(rest)
    assert sorted((folder / "train_labeled_1-2.txt").read_text().splitlines()) == lines(LABELED)
    assert len((folder / "train_unlabeled_1-2.txt").read_text().splitlines()) == 6
    main(["--target", str(folder.parent), "--splits-from", str(prepared / "splits")])
    assert "train_unlabeled_1-4.txt 9 the rest of all" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_labelled_list_of_other_images_is_not_completed(prepared, lists):
    (lists / "1_4/labeled.txt").write_text("images/validation/x.jpg annotations/validation/x.png")
    with pytest.raises(UserError, match=r"1_4/labeled.txt: 1 lines are not in the list of all training images"):
        main(["--target", str(prepared / "DATA/ade20k"), "--splits-from", str(lists)])


@pytest.mark.parametrize("cache", ["off", "folder"])
def test_every_reader_gives_the_classes(cache, prepared):
    C = load(prepared, cache=cache if cache == "off" else prepared / "cache")
    dataset, reader = build_train_set(C), build_files(C)
    dataset.prepare()
    for sample in dataset.labeled:
        np.testing.assert_array_equal(reader.pair(sample)[1], expected(sample.name))
    for name, _, label in build_eval_loader(C.updated(num_workers=0), read_list(C.eval_source, C.dataset_path)):
        np.testing.assert_array_equal(label, expected(name))
    crop, withheld = dataset[0, 1]["labels"], dataset.withheld_label(0, 1, 0)
    names = [dataset.sample(0, 1, Purpose.ORDER_LABELED).name, dataset.sample(0, 1, Purpose.ORDER_UNLABELED_0).name]
    for found, name in zip((crop, withheld), names, strict=True):
        assert any(np.array_equal(found, whole) for whole in (expected(name), expected(name)[:, ::-1]))
    assert check_classes(C, dataset) == []


def test_a_cache_distinguishes_both_meanings_of_zero(prepared):
    name = ADE20K_NAMES["training"][0]
    cached, path = {"cache": prepared / "cache"}, prepared / f"DATA/ade20k/annotations/training/{name}.png"
    files = build_files(load(prepared, **cached))
    files.prepare([], [path])
    np.testing.assert_array_equal(files.label(path), expected(name))
    with pytest.raises(UserError, match=r"label value 150 .* set C.reduce_zero_label = True"):
        build_files(load(prepared, **cached, reduce_zero_label=False)).label(path)
    np.testing.assert_array_equal(files.label(path), expected(name))


def test_the_official_folder_works_with_lists_of_unimatch(lists, tmp_path):
    root = write_folder(tmp_path / "extracted", ade20k_members()) / "ADEChallengeData2016"
    C = load(
        tmp_path, dataset_path=root, train_source=lists / "1_2/labeled.txt", unsup_source=lists / "1_2/unlabeled.txt"
    )
    dataset = build_train_set(C)
    assert [len(dataset.labeled), len(dataset.unlabeled)] == [6, 6]
    for sample in dataset.labeled:
        np.testing.assert_array_equal(build_reader(C).pair(sample)[1], expected(sample.name))


def test_labels_with_the_other_meaning_of_zero_are_refused(prepared):
    C, name = load(prepared), ADE20K_NAMES["training"][0]
    path = Path(C.dataset_path) / f"annotations/training/{name}.png"
    path.write_bytes(png(expected(name).astype(np.uint8)))
    with pytest.raises(UserError, match=r"label value 255 .*1 to 150\) nor 0; .* set C.reduce_zero_label = False"):
        build_reader(C).label(path)
    np.testing.assert_array_equal(build_reader(load(prepared, reduce_zero_label=False)).label(path), expected(name))


def test_the_doctor_counts_classes_and_names_labels_with_the_other_meaning_of_zero(prepared, capsys, monkeypatch):
    monkeypatch.setattr(checkup, "check_time", lambda C, device: [])
    overrides = {"volna": prepared, "labeled_ratio": 2, "pretrained_model": None, "head_channels": 8}

    def examine(**more) -> tuple[int, str]:
        words = [f"-o{name}={value}" for name, value in (overrides | more).items()]
        status = doctor.main([str(EXPERIMENT), "--full", "-d", "cpu", *words])
        return status, re.sub(r"\s+", " ", capsys.readouterr().out)

    status, output = examine()
    pixels = np.concatenate([expected(name) for name in LABELED])
    assert status == 0, output
    for name, index in (("wall", 0), ("flag", 149)):
        assert f"{name} {100 * (pixels == index).sum() / (pixels != 255).sum():.2f} % " in output
    assert "ok labelled contents all can be decoded; sizes and values of labels are correct" in output
    status, output = examine(reduce_zero_label=False)
    assert status == 1
    assert re.search(r"problem labelled values \d of 6: .* label value 150 .* set C.reduce_zero_label = True", output)


def test_splits_show_every_class(prepared, tmp_path, capsys):
    words = [f"-o{name}={value}" for name, value in {"volna": prepared, "labeled_ratio": 2}.items()]
    make_splits.main([str(EXPERIMENT), "--ratios", "3", "--out", str(tmp_path / "own"), *words])
    assert len((tmp_path / "own/train_labeled_1-3.txt").read_text().splitlines()) == 4
    assert "of 150" in capsys.readouterr().out


def test_another_or_incomplete_archive_is_refused(archive, tmp_path):
    target = ["--target", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"no images/training/ADE_\*.jpg; is it ADEChallengeData2016.zip"):
        main([str(write_zip(tmp_path / "other.zip", {"a/b.png": b""})), *target])
    members, label = ade20k_members(), "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    without = {name: content for name, content in members.items() if name != label}
    with pytest.raises(UserError, match=r"lacks 1 of the 2 files .*ADE_val_00000002"):
        main([str(write_zip(tmp_path / "less.zip", without)), *target])
    without = {name: c for name, c in members.items() if not name.endswith("ADE_val_00000002.jpg")}
    with pytest.raises(UserError, match="lacks the images of 1 labels, such as ADE_val_00000002"):
        main([str(write_zip(tmp_path / "less.zip", without)), *target])
    wrong = png(np.full((12, 16), 151, np.uint8))
    with pytest.raises(
        UserError, match=rf"{label} can't be used \(label value 151 is neither a class \(1 to 150\) nor 0"
    ):
        main([str(write_zip(tmp_path / "wrong.zip", members | {label: wrong})), *target])
    with pytest.raises(UserError, match="nothing to do: name the archives"):
        main(target)


def test_labels_can_be_linked(tmp_path):
    extracted, target = write_folder(tmp_path / "extracted", ade20k_members()), tmp_path / "out"
    main([str(extracted), "--target", str(target), "--link"])
    inner = "annotations/validation/ADE_val_00000001.png"
    assert (target / inner).samefile(extracted / "ADEChallengeData2016" / inner)
