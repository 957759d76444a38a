"""Files for the benchmark servers: our scores against Cityscapes' own evaluation, and VOC's folders."""

import shutil
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from furnace.datasets.catalog import CITYSCAPES_NAMES
from furnace.engine.distributed import CPU
from furnace.inference.evaluator import Evaluator
from furnace.inference.submission import Submission, cityscapes_place
from furnace.methods.settings import load_config
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY, TINY_RUN
from tests.tiny_data import PALETTE, write_image
from tests.tiny_run import NARROW, SIDE, place, write_lively

SIZE = (40, 72)
FRAMES = ["frankfurt_000000_000294", "frankfurt_000001_007973", "lindau_000005_000019"]


def write_city(volna: Path) -> tuple[Path, list[Path]]:
    """Write a data set with Cityscapes' names and its official label-id files, with every official id."""
    root, truth = volna / "DATA" / "city", []
    rng = np.random.default_rng(2)
    to_train_id = np.full(256, 255, dtype=np.uint8)
    for label in official_labels:
        if label.id >= 0:
            to_train_id[label.id] = label.trainId
    lines = []
    for frame in FRAMES:
        ids = rng.integers(0, 34, (10, 18), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        write_image(root / "images" / "val" / f"{frame}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        write_image(root / "segmentation" / "val" / f"{frame}_gtFine.png", to_train_id[ids])
        truth.append(write_image(volna / "gtFine" / "val" / f"{frame}_gtFine_labelIds.png", ids))
        lines.append(f"/images/val/{frame}.png\t/segmentation/val/{frame}_gtFine.png")
    (root / "config_new").mkdir()
    (root / "config_new" / "val.txt").write_text("\n".join(lines))
    return root, truth


def official_scores(predictions: list[Path], truth: list[Path]) -> dict:
    official.args.evalInstLevelScore, official.args.JSONOutput, official.args.quiet = False, False, True
    return official.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truth], official.args)


def test_cityscapes_scores_are_the_official_ones(tmp_path, console):
    root, truth = write_city(tmp_path)
    settings = {**TINY_RUN, **NARROW, "volna": str(tmp_path), "log_dir": str(tmp_path / "log"), "eval_crop_size": SIDE}
    C = load_config(REPOSITORY / "exp_city", settings)
    snapshot = write_lively(C, tmp_path / "city.pth")
    (result,) = Evaluator(C, CPU, console=console).run(str(snapshot))
    shutil.rmtree(root / "segmentation")  # a submission needs no labels

    out = tmp_path / "upload"
    written = Submission(C, CPU, None, out, console).run(str(snapshot))
    assert sorted(path.name for path in out.iterdir()) == [f"{frame}_pred_labelIds.png" for frame in FRAMES]
    official.args.predictionPath, official.args.predictionWalk = str(out), None
    assert [official.getPrediction(official.args, str(path)) for path in truth] == [str(path) for path in written]

    found = official_scores(written, truth)
    ours = dict(zip(CITYSCAPES_NAMES, result.values["iou"].tolist(), strict=True))
    assert sum(iou > 0 for iou in ours.values()) > 5
    for name, iou in ours.items():
        assert iou == pytest.approx(found["classScores"][name], abs=1e-6)
    assert result.values["miou"].item() == pytest.approx(found["averageScoreClasses"], abs=1e-6)

    predicted = np.stack([np.asarray(Image.open(path)) for path in written])
    used = sorted(label.id for label in official_labels if label.trainId not in (255, -1))
    assert set(np.unique(predicted)) <= set(used)


def test_voc_folders_and_palette(C, tmp_path, console):
    C = C.updated(test_folder="val")
    root = Path(C.dataset_path)
    (root / "test.txt").write_text("2009_000002\n2009_000000\n")
    C = C.updated(test_source=str(root / "test.txt"))
    Evaluator(C, CPU, save_to=tmp_path / "pictures", console=console).run("last")
    shutil.rmtree(root / "val" / "label")
    Submission(C, CPU, None, tmp_path / "upload", console).run("last")
    folder = tmp_path / "upload" / "results" / "VOC2012" / "Segmentation" / "comp6_test_cls"
    assert [path.relative_to(tmp_path / "upload") for path in sorted((tmp_path / "upload").rglob("*.png"))] == [
        (folder / f"2009_00000{i}.png").relative_to(tmp_path / "upload") for i in (0, 2)
    ]
    with Image.open(folder / "2009_000002.png") as picture:
        assert picture.mode == "P"
        labels = np.asarray(picture)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[labels])
    evaluated = np.asarray(Image.open(tmp_path / "pictures" / "epoch-last" / "label" / "2009_000002.png"))
    np.testing.assert_array_equal(labels, evaluated)


def test_refusals(C, tmp_path, lively_snapshot, console):
    place(lively_snapshot, C, "epoch-2.pth")
    with pytest.raises(UserError, match="takes one"):
        Submission(C, CPU, None, tmp_path, console).run("1-")
    snapshot = torch.load(lively_snapshot, weights_only=True)
    snapshot["settings"]["dataset_name"] = "mine"
    torch.save(snapshot, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: was trained on mine with 21 classes; --submit needs one of pas"):
        Submission(C, CPU, None, tmp_path / "out", console).run(str(tmp_path / "other.pth"))
    assert not (tmp_path / "out").exists()
    C = C.updated(test_source="nowhere.txt")
    with pytest.raises(UserError, match="no such list"):
        Submission(C, CPU, None, tmp_path, console)
    C = C.updated(dataset_name="camvid")
    with pytest.raises(UserError, match="no benchmark server"):
        Submission(C, CPU, None, tmp_path, console)


def test_names_for_the_server_omit_the_suffix_of_the_images() -> None:
    assert cityscapes_place(f"{FRAMES[0]}_leftImg8bit", "val") == f"{FRAMES[0]}_pred_labelIds.png"
    assert cityscapes_place(FRAMES[0], "val") == f"{FRAMES[0]}_pred_labelIds.png"


def test_two_images_of_one_name_are_refused(C, tmp_path, console):
    root = Path(C.dataset_path)
    for folder in "ab":
        (root / folder).mkdir()
        shutil.copy(root / "val/image/2009_000000.png", root / folder / "x.png")
    (root / "test.txt").write_text("a/x.png\nb/x.png\n")
    with pytest.raises(UserError, match=r"a/x\.png and \S+b/x\.png: the server takes one"):
        Submission(C.updated(test_source=str(root / "test.txt")), CPU, None, tmp_path, console)
