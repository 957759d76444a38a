"""Predictions against the plain network: labels, confidence, overlay, names, videos, and refused inputs."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from furnace.engine.distributed import CPU
from furnace.inference.predictor import Outputs, Predictor
from furnace.inference.segmenter import Segmenter
from furnace.utils import fonts
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_data import PALETTE, write_image
from tests.tiny_run import SIDE, load_plain, place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of the window's size, one of them in a sub-folder, and a file of another type."""
    rng = np.random.default_rng(3)
    for name in ("a.png", "deep/er/b.png"):
        write_image(tmp_path / "photos" / name, rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


@torch.no_grad()
def plain_probabilities(C: Settings, image: np.ndarray, branch: str) -> torch.Tensor:
    network = load_plain(Path(C.snapshot_dir) / "epoch-1.pth", C)
    pixels = torch.tensor(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (C.image_mean, C.image_std))
    inputs = (pixels - mean) / std
    branches = (1, 2) if branch == "both" else (int(branch),)
    return torch.stack([network(inputs, number)[0].softmax(0) for number in branches]).mean(0)


@pytest.mark.parametrize("branch", ["1", "2", "both"])
def test_maps_are_those_of_the_network(C, photos, tmp_path, branch):
    out = tmp_path / "out"
    Predictor(C, CPU, branch, Outputs(out, confidence=True, opacity=0.25)).run("last", [str(photos)])
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    names = [f"{kind}/{name}.png" for kind in ("confidence", "label", "overlay") for name in ("a", "deep/er/b")]
    assert written == sorted([*names, "legend.png"])
    for name in ("a", "deep/er/b"):
        image = np.asarray(Image.open(photos / f"{name}.png"))
        probabilities = plain_probabilities(C, image, branch)
        with Image.open(out / "label" / f"{name}.png") as picture:
            assert picture.mode == "P"
            labels = np.asarray(picture)
            shown = np.asarray(picture.convert("RGB"))
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(labels, probabilities.argmax(0).numpy())
        np.testing.assert_array_equal(shown, PALETTE[labels])
        confidence = np.asarray(Image.open(out / "confidence" / f"{name}.png")) / 255
        np.testing.assert_allclose(confidence, probabilities.amax(0).numpy(), atol=0.51 / 255)
        overlay = np.asarray(Image.open(out / "overlay" / f"{name}.png"))
        expected = np.where((labels > 0)[..., None], 0.75 * image + 0.25 * PALETTE[labels], image)
        np.testing.assert_allclose(overlay, expected, atol=0.51)


def test_confidence_of_a_large_image_is_a_probability(C):
    segmenter = Segmenter(C, CPU)
    segmenter.load(Path(C.snapshot_dir) / "epoch-1.pth")
    image = np.random.default_rng(0).integers(0, 256, (SIDE, 2 * SIDE + 5, 3), dtype=np.uint8)
    labels, probabilities = map(torch.from_numpy, segmenter(image, probabilities=True))
    torch.testing.assert_close(probabilities.sum(0), torch.ones(image.shape[:2]))
    # One window covers the first columns, two cover those in the middle.
    with torch.inference_mode():
        window = segmenter.window.scores(image[:, :SIDE], segmenter.window_scores, segmenter.to_input)
    torch.testing.assert_close(probabilities[..., :20], window.softmax(0)[..., :20])
    torch.testing.assert_close(probabilities.argmax(0), labels.long())
    ((_, found),) = segmenter.stream([(image, None)], confidence=True)
    assert torch.equal(found.labels, labels) and torch.equal(found.confidence, probabilities.amax(0))


def test_files_patterns_and_equal_stems(C, photos, tmp_path):
    jpeg = write_image(photos / "a.jpg", np.zeros((20, 30, 3), dtype=np.uint8))
    out = tmp_path / "out"
    found = Predictor(C, CPU, "1", Outputs(out, overlay=False)).run(
        "1", [str(jpeg), str(photos / "*.png"), str(photos / "**" / "b.*")]
    )
    assert len(found) == 3
    assert sorted(path.relative_to(out / "label").as_posix() for path in (out / "label").rglob("*.png")) == [
        "a.jpg.png",
        "a.png.png",
        "deep/er/b.png",
    ]
    assert not (out / "overlay").exists()
    assert Image.open(out / "label" / "a.jpg.png").size == (30, 20)


def test_results_inside_the_folder_are_not_predicted_again(C, photos):
    outputs = Outputs(photos / "results")
    assert len(Predictor(C, CPU, "1", outputs).run("last", [str(photos)])) == 2
    assert len(Predictor(C, CPU, "1", outputs).run("last", [str(photos)])) == 2


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_an_input_in_the_place_of_a_result_is_replaced(C, photos, tmp_path, link):
    image = next(path for path in sorted(photos.rglob("*.*")) if path.is_file())
    content, label = image.read_bytes(), tmp_path / "out" / "label" / f"{image.stem}.png"
    label.parent.mkdir(parents=True)
    link(image, label)
    Predictor(C, CPU, "1", Outputs(tmp_path / "out")).run("last", [str(image)])
    assert image.read_bytes() == content and Image.open(label).mode == "P" and not label.is_symlink()


def test_inputs_in_a_linked_folder_of_results_are_refused(C, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay").symlink_to(photos)
    with pytest.raises(UserError, match="could be overwritten; choose another folder with -p"):
        Predictor(C, CPU, "1", Outputs(tmp_path / "out")).run("last", [str(photos)])


def test_an_incomplete_video_can_be_played_if_its_end_can_not_be_written(C, tmp_path, monkeypatch):
    write_video(tmp_path / "ride.avi", frames=3)
    out = tmp_path / "out"
    predictor = Predictor(C, CPU, "1", Outputs(out))
    save_maps = predictor.save_maps

    def full(name: str, *rest) -> np.ndarray:
        if name.endswith("2"):
            raise UserError("no space left")
        return save_maps(name, *rest)

    monkeypatch.setattr(predictor, "save_maps", full)
    with pytest.raises(UserError, match="no space left"):
        predictor.run("last", [str(tmp_path / "ride.avi")])
    assert [path.name for path in (out / "overlay").iterdir()] == ["ride.incomplete.mp4"]
    video = cv2.VideoCapture(str(out / "overlay" / "ride.incomplete.mp4"))
    assert [video.read()[0] for _ in range(3)] == [True, True, False]


def write_video(path: Path, frames: int) -> None:
    """Write a video of noise."""
    rng = np.random.default_rng(1)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (48, SIDE))
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (SIDE, 48, 3), dtype=np.uint8))
    writer.release()


def test_video(C, tmp_path):
    write_video(tmp_path / "ride.avi", frames=3)
    out = tmp_path / "out"
    Predictor(C, CPU, "1", Outputs(out, opacity=0)).run("last", [str(tmp_path / "ride.avi")])
    assert [path.name for path in sorted((out / "label" / "ride").iterdir())] == [f"00000{i}.png" for i in range(3)]
    original, overlaid = (cv2.VideoCapture(str(path)) for path in (tmp_path / "ride.avi", out / "overlay" / "ride.mp4"))
    assert overlaid.get(cv2.CAP_PROP_FPS) == 5
    for _ in range(3):
        (_, frame), (there, shown) = original.read(), overlaid.read()
        assert there and shown.shape == frame.shape
        # The codec does not keep the noise, but the mean colours.
        assert np.abs(shown.mean((0, 1)) - frame.mean((0, 1))).max() < 8
    assert not overlaid.read()[0]


def test_frames_of_an_earlier_longer_video_do_not_stay(C, tmp_path):
    for frames in (5, 3):
        write_video(tmp_path / "ride.avi", frames)
        Predictor(C, CPU, "1", Outputs(tmp_path / "out", overlay=False)).run("last", [str(tmp_path / "ride.avi")])
    assert len(list((tmp_path / "out" / "label" / "ride").iterdir())) == 3


def test_incomplete_videos_are_reported_and_change_the_status(C, tmp_path, capsys):
    write_video(tmp_path / "whole.avi", frames=3)
    write_video(tmp_path / "cut.avi", frames=9)
    write_video(tmp_path / "none.avi", frames=0)
    (tmp_path / "cut.avi").write_bytes((tmp_path / "cut.avi").read_bytes()[:-9000])
    (tmp_path / "broken.mp4").write_bytes(b"nothing")

    predictor = Predictor(C.updated(on_bad_image="skip"), CPU, "1", Outputs(tmp_path / "out", overlay=False))
    predictor.run("last", [str(tmp_path / "*.avi"), str(tmp_path / "*.mp4")])
    said = capsys.readouterr()
    count = len(list((tmp_path / "out" / "label" / "cut").iterdir()))
    assert predictor.status == 1 and 0 < count < 9
    assert "1 predicted by" in said.out
    assert "; 1 could not be read; 2 with missing or damaged frames" in said.out
    assert f"cut.avi: {count} of 9 frames could be read" in said.err
    assert "none.avi: no frame could be read" in said.err
    assert "left out:" in said.err and "broken.mp4: can't be opened as a video" in said.err


@pytest.mark.parametrize(
    ("inputs", "which", "out", "message"),
    [
        (["photos/none.png"], "last", "out", "no such file or folder"),
        (["photos/notes.txt"], "last", "out", "neither a picture nor a video"),
        (["photos/*.webp"], "last", "out", "no picture or video"),
        (["photos", "other/a.png"], "last", "out", "the same name"),
        (["photos/label/x.png"], "last", "photos", "would be overwritten|could be overwritten"),
        (["photos"], "0-", "out", "names 2 snapshots"),
        (["photos"], "7", "out", "no such snapshot"),
        (["photos"], "3-1", "out", "-e 3-1: the range is reversed"),
        (["photos"], "last", "photos", "-p .*photos: is or contains the input photos"),
        (["broken.png"], "last", "out", "can't be decoded"),
        (["broken.mp4"], "last", "out", "can't be opened as a video"),
    ],
)
def test_refusals(C, lively_snapshot, photos, tmp_path, monkeypatch, inputs, which, out, message):
    monkeypatch.chdir(tmp_path)
    place(lively_snapshot, C, "epoch-2.pth")
    write_image(tmp_path / "other" / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    untouched = write_image(photos / "label" / "x.png", np.zeros((8, 8, 3), dtype=np.uint8)).read_bytes()
    for name in ("broken.png", "broken.mp4"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=message):
        Predictor(C, CPU, "1", Outputs(tmp_path / out)).run(which, inputs)
    assert (photos / "label" / "x.png").read_bytes() == untouched


def test_a_picture_that_cannot_be_read_stops_or_is_left_out(C, photos, tmp_path, capsys):
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"cut\.png: can't be decoded.*; use -o on_bad_image=skip to leave out"):
        Predictor(C, CPU, None, Outputs(tmp_path / "stopped")).run("last", [str(photos)])
    C = C.updated(on_bad_image="skip")
    predictor = Predictor(C, CPU, None, Outputs(tmp_path / "out"))
    predictor.run("last", [str(photos)])
    assert predictor.status == 0, "as it was asked for"
    assert sorted(path.name for path in (tmp_path / "out" / "label").rglob("*.png")) == ["a.png", "b.png"]
    said = capsys.readouterr()
    assert "left out:" in said.err and "cut.png" in said.err
    assert "2 predicted" in said.out and "1 could not be read" in said.out.replace("\n", " ")


def test_a_file_that_is_no_video_is_reported_before_the_work(C, photos, tmp_path, monkeypatch):
    (photos / "z.mp4").write_bytes(b"nothing")
    skipping = Predictor(C.updated(on_bad_image="skip"), CPU, None, Outputs(tmp_path / "out"))
    skipping.run("last", [str(photos)])
    assert len(skipping.skipped) == 1 and (tmp_path / "out" / "label" / "a.png").exists()
    monkeypatch.setattr(Segmenter, "load", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=r"z\.mp4: can't be opened as a video"):
        Predictor(C, CPU, None, Outputs(tmp_path / "out")).run("last", [str(photos)])


def test_an_unusable_folder_for_results_is_reported_before_the_work(C, photos, monkeypatch):
    monkeypatch.setattr(Segmenter, "load", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=r"notes\.txt: can't be written \(File exists\)"):
        Predictor(C, CPU, None, Outputs(photos / "notes.txt")).run("last", [str(photos / "a.png")])


def test_names_without_a_font_are_reported_once(C, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "is_drawable", str.isascii)
    last = Path(C.snapshot_dir) / "epoch-last.pth"
    content = torch.load(last, weights_only=True)
    last.unlink()  # writing through the hard link would change the shared file
    torch.save(content | {"settings": content["settings"] | {"dataset_name": "mine"}}, last)
    names = ["背景", *(f"class {i}" for i in range(1, C.num_classes))]
    Predictor(C.updated(class_names=names), CPU, "1", Outputs(tmp_path / "out")).run("last", [str(photos)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no font" in line]
    assert "背景" in line and "0 BeiJing" in line and "legend.png" in line
