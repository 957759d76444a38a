"""The loader benchmark: both arrangements give the same crops, every way is measured, and ratios are medians."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import loader
from benchmarks.loader import CAMVID, KINDS, MEAN, STD, Published, generate, main, make_set, quarter
from furnace.datasets.reading import Files
from furnace.datasets.splits import Sample
from tests.golden_values import GOLDEN
from tests.tiny_data import blocky_label, write_image, write_palette_label


@pytest.mark.parametrize("kind", KINDS, ids=["city", "voc"])
def test_the_published_arrangement_gives_our_crops(kind, tmp_path: Path) -> None:
    kind = quarter(quarter(kind))
    samples = generate(tmp_path, kind)
    dataset, published = make_set(kind, samples, Files(kind.classes)), Published(samples, kind)
    for position in range(20):
        ours = dataset.labeled_sample(0, position)
        image, label = published.labeled(dataset, position)
        pixels = 255 * (image.transpose(1, 2, 0) * STD + MEAN)
        assert np.abs(pixels - ours["images"]).max() <= 1.5
        np.testing.assert_array_equal(label, ours["labels"])
        unlabeled = 255 * (published.unlabeled(dataset, position).transpose(1, 2, 0) * STD + MEAN)
        assert np.abs(unlabeled - dataset.unlabeled_sample(0, position, 0)["unlabeled_0"]).max() <= 1.5


def write_camvid(root: Path) -> Path:
    """Three images in the layout of CamVid."""
    rng = np.random.default_rng(0)
    for name in "abc":
        write_image(root / "train/image" / f"{name}.png", rng.integers(0, 256, (90, 120, 3), np.uint8))
        write_palette_label(root / "train/label" / f"{name}.png", blocky_label(rng, (90, 120)).clip(0, 10))
    (root / "train.txt").write_text("a\nb\nc\n")
    return root


def test_quick_run_measures_every_way_of_every_data_set(tmp_path: Path) -> None:
    camvid = write_camvid(tmp_path / "camvid")
    main(["--quick", "--workers", "1", "--camvid", str(camvid), "--json", str(tmp_path / "figures.json")])
    results = json.loads((tmp_path / "figures.json").read_text())
    assert [result["name"] for result in results] == [kind.name for kind in [*KINDS, CAMVID]]
    for result in results:
        for kind in ("labelled", "unlabelled"):
            found = result[kind]
            assert found.keys() == {"decoding", "published", "files", "cache"}
            assert all(figures["cpu_seconds"] > 0 for figures in found.values())
            assert found["decoding"]["times_decoding"] == found["published"]["faster_than_published"] == 1
        assert {way: list(speed) for way, speed in result["samples_per_second"].items()} == {
            "files": ["1"],
            "cache": ["1"],
        }
        assert all(value > 0 for speed in result["samples_per_second"].values() for value in speed.values())


def test_ratios_are_medians_over_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(loader.time, "process_time", lambda: clock[0])

    def taking(*seconds: float):
        def work(position: int) -> None:
            clock[0] += seconds[position]

        return work

    # The machine is ten times slower at the last position.
    found = loader.compare(
        {"decoding": taking(1, 2, 30), "published": taking(8, 12, 120), "files": taking(2, 3, 60)}, 3
    )
    assert found["files"] == {"cpu_seconds": 3, "times_decoding": 2, "faster_than_published": 4}
    assert found["published"] == {"cpu_seconds": 12, "times_decoding": 6, "faster_than_published": 1}


@pytest.mark.parametrize("name", ["city", "voc"])
def test_the_published_arrangement_scales_grey_levels(name: str, tmp_path: Path, monkeypatch) -> None:
    """The golden crops of the published code have integer grey levels, and so have the benchmark's."""
    golden = np.load(GOLDEN / f"transform_{name}.npz")
    case = next(key for key in golden if key.endswith("/out_image") and golden[key.replace("out_image", "scale")] != 1)
    assert off_grey_levels(golden[case]) < 1e-3
    image = write_image(tmp_path / "a.png", np.ascontiguousarray(golden["image"]))
    samples = [Sample("a", image, write_palette_label(tmp_path / "l.png", golden["label"].astype(np.uint8)))]
    kind = loader.Kind("", golden["image"].shape[:2], ".png", (32, 32), 21, 6)
    monkeypatch.setattr(loader, "SCALES", [1.5])
    assert off_grey_levels(Published(samples, kind).unlabeled(make_set(kind, samples, Files(255)), 0)) < 1e-3


def off_grey_levels(crop: np.ndarray) -> float:
    """Largest distance of a normalised crop (3, H, W) from integer grey levels, without its padding."""
    levels = 255 * (crop.astype(np.float64) * STD.reshape(3, 1, 1) + MEAN.reshape(3, 1, 1))[:, crop.any(0)]
    return float(np.abs(levels - levels.round()).max())


def test_edges_of_labels_are_seven_pixels_wide() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[:, 20:] = 5
    edges = loader.edge_map(label)
    assert (edges[20] > 0).sum() in (7, 8) and edges[20, 19] == 255 and not edges[20, :15].any()
