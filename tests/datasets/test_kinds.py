"""Users' images and labels of all kinds: the right pixels, or one line with the reason."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms

from furnace.datasets.inspection import turned_alone
from furnace.datasets.levels import to_levels
from furnace.datasets.reading import check_sizes, image_size, read_image, read_label
from furnace.datasets.splits import Sample
from furnace.utils import terminal
from furnace.utils.errors import UserError

ANYWHERE = Path("image.tif")
rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
BANDS = rng.integers(0, 256, (40, 60, 5), dtype=np.uint8)
GREY = PHOTO[..., 0]
PROFILES = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
LABEL = rng.integers(0, 4, (40, 60), dtype=np.uint8)


def tif(path: Path, values: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, values, **options)
    return path


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


RGB, BLACK, WHITE = {"photometric": "rgb"}, {"photometric": "minisblack"}, {"photometric": "miniswhite"}
TWELVE = (PHOTO.astype(np.uint16) << 4) + 15
FOUR = {**RGB, "extrasamples": ["unspecified"]}
TIFFS = {
    **{kind: (PHOTO, {**RGB, "compression": kind}, PHOTO) for kind in ("zstd", "lzw", "zlib", "packbits", "lzma")},
    "tiles": (PHOTO, {**RGB, "tile": (16, 32), "compression": "lzw", "predictor": True}, PHOTO),
    "planes": (PHOTO.transpose(2, 0, 1), {**RGB, "planarconfig": "separate"}, PHOTO),
    "big": (PHOTO, {**RGB, "bigtiff": True, "byteorder": ">"}, PHOTO),
    "grey": (GREY, BLACK, repeated(GREY)),
    "white is 0": (GREY, WHITE, 255 - repeated(GREY)),
    "fourth band": (BANDS[..., :4], FOUR, BANDS[..., :3]),
    "associated alpha": (BANDS[..., :4], {**RGB, "extrasamples": ["assocalpha"]}, BANDS[..., :3]),
    "other alpha": (BANDS[..., :4], {**RGB, "extrasamples": ["unassalpha"]}, BANDS[..., :3]),
    "five bands": (BANDS, {**BLACK, "planarconfig": "contig"}, BANDS[..., :3]),
    "two bands": (BANDS[..., :2], {**BLACK, "planarconfig": "contig"}, repeated(BANDS[..., 0])),
    "black and white": (GREY > 99, BLACK, repeated(255 * (GREY > 99).astype(np.uint8))),
    "16 bits": (PHOTO.astype(np.uint16) * 257, RGB, PHOTO),
    "12 of 16 bits": (TWELVE, RGB, PHOTO),
    "8 of 16 bits": (PHOTO.astype(np.uint16), RGB, PHOTO),
    "8 of 32 bits": (PHOTO.astype(np.int32), RGB, PHOTO),
    "12 of 32 bits": (TWELVE.astype(np.uint32), RGB, PHOTO),
    "16 of 64 bits": (PHOTO.astype(np.uint64) * 257, RGB, PHOTO),
    "fractions": (PHOTO.astype(np.float32) / 255, RGB, PHOTO),
    "levels as fractions": (PHOTO.astype(np.float64), RGB, PHOTO),
    "palette": (
        LABEL,
        {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 80},
        None,
    ),
}


@pytest.mark.parametrize("values, options, expected", TIFFS.values(), ids=TIFFS)
def test_tiff(values, options, expected, tmp_path):
    path = tif(tmp_path / "image.tif", values, **options)
    if expected is None:
        expected = (options["colormap"] >> 8).astype(np.uint8).T[values]
    found = read_image(path)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    assert image_size(path) == (60, 40)


@pytest.mark.parametrize("values", [PHOTO - 300.0, PHOTO * 2.0, PHOTO / np.nan, PHOTO.astype(np.int16) - 1])
def test_values_that_are_not_grey_levels_are_refused(values, tmp_path):
    with pytest.raises(UserError, match=r"image\.tif: values from .* are not grey levels"):
        read_image(tif(tmp_path / "image.tif", values, **RGB))


@pytest.mark.parametrize("options", [{}, {"compression": "jpeg"}, {"compression": "zstd"}, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_cut_off_tiff_is_refused(options, share, tmp_path):
    path = tif(tmp_path / "image.tif", PHOTO, **options)
    read_image(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"image\.tif: can't be decoded"):
        read_image(path)


def test_an_unsupported_compression_is_not_reported_as_damage(tmp_path):
    path = tif(tmp_path / "image.tif", PHOTO, compression="lzw")
    content = path.read_bytes()
    tag = struct.pack("<HHIH", 259, 3, 1, 5)
    path.write_bytes(content.replace(tag, struct.pack("<HHIH", 259, 3, 1, 34713)))
    with pytest.raises(UserError, match=r"compressed with .*NIKON.* can't read") as caught:
        read_image(path)
    assert "damaged" not in str(caught.value)


# Row and column in the file (H x W pixels) of the pixel that is shown at row r and column c.
STORED = {
    1: lambda r, c, H, W: (r, c),
    2: lambda r, c, H, W: (r, W - 1 - c),
    3: lambda r, c, H, W: (H - 1 - r, W - 1 - c),
    4: lambda r, c, H, W: (H - 1 - r, c),
    5: lambda r, c, H, W: (c, r),
    6: lambda r, c, H, W: (H - 1 - c, r),
    7: lambda r, c, H, W: (H - 1 - c, W - 1 - r),
    8: lambda r, c, H, W: (c, W - 1 - r),
}
FORMATS = {"jpg": {"quality": 95}, "png": {}, "tif": {}, "webp": {"lossless": True}}


def shown(pixels: np.ndarray, orientation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    rows, columns = (width, height) if orientation > 4 else (height, width)
    at = np.array([[STORED[orientation](r, c, height, width) for c in range(columns)] for r in range(rows)])
    return pixels[at[..., 0], at[..., 1]]


@pytest.mark.parametrize("suffix, options", FORMATS.items())
@pytest.mark.parametrize("orientation", STORED)
def test_images_and_labels_are_upright(suffix, options, orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    smooth = cv2.resize(PHOTO[:4, :6], (60, 40))
    Image.fromarray(smooth).save(tmp_path / f"image.{suffix}", exif=exif, **options)
    found = read_image(tmp_path / f"image.{suffix}")
    assert np.abs(found.astype(int) - shown(smooth, orientation)).mean() < 8 * (suffix == "jpg") + 0.1
    if suffix in ("png", "tif"):
        Image.fromarray(LABEL).save(tmp_path / f"label.{suffix}", exif=exif)
        np.testing.assert_array_equal(read_label(tmp_path / f"label.{suffix}", 4), shown(LABEL, orientation))


OTHERS = {
    "grey and alpha": ("LA", "png", {}),
    "ink": ("CMYK", "jpg", {"quality": 95}),
    "GIF": ("P", "gif", {}),
    "palette": ("P", "webp", {"lossless": True}),
    "ink in TIFF": ("CMYK", "tif", {}),
}


@pytest.mark.parametrize("mode, suffix, options", OTHERS.values(), ids=OTHERS)
def test_other_modes_become_rgb(mode, suffix, options, tmp_path):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PHOTO).convert(mode).save(path, **options)
    np.testing.assert_allclose(read_image(path).astype(int), np.asarray(Image.open(path).convert("RGB")), atol=1)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "RGB"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_of_a_tiff_are_turned_once(mode, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    flat = np.zeros_like(PHOTO)
    flat[:20, :10] = 255
    image = Image.fromarray(flat)
    image = ImageCms.profileToProfile(image, *PROFILES, outputMode="LAB") if mode == "LAB" else image.convert(mode)
    image.save(tmp_path / "image.tif", exif=exif)
    expected = shown(flat, orientation)
    found = read_image(tmp_path / "image.tif")
    assert found.shape == expected.shape and ((found > 99) == (expected > 99)).all()


def test_a_pgm_of_16_bits_is_scaled(tmp_path):
    for largest, scaled in ((65535, GREY.astype(">u2") * 257), (4095, GREY.astype(">u2") * 16)):
        (tmp_path / "image.pgm").write_bytes(f"P5 60 40 {largest}\n".encode() + scaled.astype(">u2").tobytes())
        np.testing.assert_allclose(read_image(tmp_path / "image.pgm").astype(int), repeated(GREY), atol=1)


def test_colours_of_transparent_pixels_are_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_noted", set())
    for name in "ab":
        Image.fromarray(BANDS[..., :4]).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), BANDS[..., :3])
    assert capsys.readouterr().err.count("without its transparency") == 1


@given(arrays(np.uint16, (3, 4)))
def test_no_image_of_16_bits_becomes_nearly_black(values):
    bits = next(bits for bits in (8, 10, 12, 14, 16) if (values < 2**bits).all())
    np.testing.assert_array_equal(to_levels(values, ANYWHERE), values // 2 ** (bits - 8))


def png(bits: int, colour_type: int, values: np.ndarray) -> bytes:
    """A PNG file of label values, written byte by byte as the PNG specification says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    digits = (values[..., None].astype(np.uint16) >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    palette = chunk(b"PLTE", bytes(range(3)) * 2**bits) if colour_type == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + palette + content + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits, colour_type", [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_label_values_are_those_of_the_file(bits, colour_type, tmp_path):
    values = rng.integers(0, min(2**bits, 200), (7, 13), dtype=np.uint8)
    (tmp_path / "label.png").write_bytes(png(bits, colour_type, values))
    np.testing.assert_array_equal(read_label(tmp_path / "label.png", 200), values)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32])
def test_label_of_a_tiff(dtype, tmp_path):
    values = (LABEL % 2).astype(dtype)
    np.testing.assert_array_equal(read_label(tif(tmp_path / "label.tif", values, **BLACK), 2), LABEL % 2)


LABELS_REFUSED = {
    "label.jpg": "a JPEG changes the values",
    "label.pgm": "would be scaled",
    "label.tif": "TIFF image of 1 bands of float32",
}


@pytest.mark.parametrize("name, complaint", LABELS_REFUSED.items())
def test_a_label_whose_values_are_lost_is_refused(name, complaint, tmp_path):
    path = tmp_path / name
    if name.endswith("pgm"):
        path.write_bytes(b"P5 60 40 20\n" + LABEL.tobytes())
    elif name.endswith("tif"):
        tif(path, LABEL.astype(np.float32), **BLACK)
    else:
        Image.fromarray(LABEL).save(path)
    with pytest.raises(UserError, match=complaint):
        read_label(path, 4)


@pytest.mark.parametrize("exif", [b"", b"no TIFF", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(9)])
def test_a_photo_with_broken_exif_is_read(exif, tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(PHOTO).save(path, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])


def test_the_size_of_a_tiff_is_in_its_header(tmp_path, monkeypatch):
    path = tif(tmp_path / "image.tif", PHOTO, **RGB)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the whole file is read"))
    assert image_size(path) == (60, 40)


def test_the_first_picture_of_an_animated_png_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_noted", set())
    first, *others = (Image.fromarray(np.full((5, 6, 3), level, np.uint8)) for level in (10, 20, 30))
    first.save(tmp_path / "moving.png", save_all=True, append_images=others)
    assert (read_image(tmp_path / "moving.png") == 10).all()
    assert "moving.png: the first of 3 frames is read" in capsys.readouterr().err
    first.save(tmp_path / "still.png")
    read_image(tmp_path / "still.png")
    assert not capsys.readouterr().err


def test_a_label_that_is_not_turned_like_its_image_is_found(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg", exif=exif)
    labels = {name: tmp_path / f"{name}.png" for name in ("flat", "turned")}
    Image.fromarray(LABEL).save(labels["flat"])
    Image.fromarray(LABEL).save(labels["turned"], exif=exif)
    found = {name: turned_alone(Sample(name, tmp_path / "photo.jpg", path)) for name, path in labels.items()}
    assert found == {"flat": True, "turned": False}
    assert not turned_alone(Sample("same", labels["flat"], labels["flat"]))
    sample = Sample("flat", tmp_path / "photo.jpg", labels["flat"])
    with pytest.raises(UserError, match=r"photo\.jpg has .*, upright by its EXIF orientation; turn the label, too$"):
        check_sizes(sample, (7, 5), (5, 7))
    with pytest.raises(UserError, match=r"photo\.jpg has 5x7$"):
        check_sizes(sample, (7, 5), (5, 8))
