"""Images and labels from files: exact pixels; for every faulty file, a UserError with its name and the cause."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from furnace.datasets.catalog import CITYSCAPES_LABEL_IDS
from furnace.datasets.encoding import decode_indices
from furnace.datasets.picture import completed
from furnace.datasets.reading import Files, read_image, read_label
from furnace.datasets.splits import Sample
from furnace.utils.errors import UserError
from tests.tiny_data import NUM_CLASSES, PALETTE, blocky_label, write_image, write_palette_label

READERS = [read_image, lambda path: read_label(path, NUM_CLASSES)]
READER_IDS = ["image", "label"]


@pytest.fixture
def label() -> np.ndarray:
    """A label map with every class and ignored pixels, (30, 44) uint8."""
    label = blocky_label(np.random.default_rng(0), (30, 44))
    label[0, : NUM_CLASSES + 1] = [*range(NUM_CLASSES), 255]
    return label


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth picture, (120, 160, 3) uint8."""
    y, x = np.mgrid[:120, :160]
    return np.stack([y * 2, x, (x + y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif"])
def test_image_is_read_as_rgb(suffix, photo, tmp_path):
    found = read_image(write_image(tmp_path / f"image{suffix}", photo))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, photo)


def test_jpeg_is_read_as_another_decoder_does(photo, tmp_path):
    path = write_image(tmp_path / "image.jpg", photo, quality=95)
    expected = np.asarray(Image.open(path)).astype(int)
    assert np.abs(read_image(path) - expected).max() <= 2
    assert np.abs(read_image(path) - photo.astype(int)).mean() < 3


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGBA", 4), ("P", 1)])
def test_grey_transparent_and_palette_images_become_rgb(mode, channels, photo, tmp_path):
    converted = Image.fromarray(photo).convert(mode)
    assert len(converted.getbands()) == channels
    converted.save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png")
    np.testing.assert_array_equal(found, np.asarray(converted.convert("RGB")))


@pytest.mark.parametrize(
    "mode, write",
    [
        ("P", write_palette_label),
        ("L", write_image),
        ("I;16", lambda path, label: write_image(path, label.astype(np.uint16))),
    ],
)
def test_label_is_read_as_indices(mode, write, label, tmp_path):
    path = write(tmp_path / "label.png", label)
    with Image.open(path) as file:
        assert file.mode == mode
    found = read_label(path, NUM_CLASSES)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


def test_black_and_white_label_holds_classes_0_and_1(tmp_path):
    binary = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(read_label(write_image(tmp_path / "label.png", binary), 2), binary.astype(np.uint8))


NO_CLASS = r"is neither a class \(C\.num_classes = 21: 0 to 20\)"


@pytest.mark.parametrize(
    "mode, complaint",
    [
        ("L", rf"label value \d+ {NO_CLASS}.*palette's indices"),
        ("RGB", ".* this is an image of mode RGB; docs/own-dataset"),
    ],
)
def test_palette_label_saved_as_levels_or_colours_is_recognised(mode, complaint, label, tmp_path):
    palette_image = Image.open(write_palette_label(tmp_path / "label.png", label.clip(max=NUM_CLASSES - 1)))
    palette_image.convert(mode).save(tmp_path / "other.png")
    with pytest.raises(UserError, match=rf"other\.png: {complaint}"):
        read_label(tmp_path / "other.png", NUM_CLASSES)


@pytest.mark.parametrize(
    "values, dtype, num_classes, complaint",
    [
        (CITYSCAPES_LABEL_IDS, np.uint8, 19, "label value 19 .*not converted to train ids"),
        *[((3, v, 255, 254), np.uint8, 21, f"label value {v} {NO_CLASS} nor 255") for v in (21, 200, 254)],
        # Values that do not fit into a byte must not wrap around.
        *[((v, 3), dtype, 21, f"label value {v} is") for v, dtype in ((-2, "int32"), (300, "uint16"), (259, "int32"))],
    ],
)
def test_label_value_that_is_no_class_is_named(values, dtype, num_classes, complaint, tmp_path):
    path = write_image(tmp_path / "label.tif", np.array([values], dtype=dtype))
    with pytest.raises(UserError, match=rf"label\.tif: {complaint}"):
        read_label(path, num_classes)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("num_classes", [2, 150, 255])
def test_zero_may_be_unlabelled_and_the_other_values_are_reduced_by_one(dtype, num_classes, tmp_path):
    values = np.arange(num_classes + 1).reshape(1, -1)
    found = read_label(write_image(tmp_path / "label.tif", values.astype(dtype)), num_classes, reduce_zero_label=True)
    assert found.dtype == np.uint8
    assert found.tolist() == [[255, *range(num_classes)]]


@pytest.mark.parametrize(
    "value, reduce_zero_label, complaint",
    [
        (152, True, r"152 is neither a class \(C.num_classes = 150: 1 to 150\) nor 0; check C.num_classes"),
        (255, True, r"255 is .* nor 0; if 255 is unlabelled in these files, .* set C.reduce_zero_label = False"),
        (-1, True, "-1 is neither a class .* nor 0; check"),
        (150, False, r"150 is .*: 0 to 149\) nor 255; if 0 is unlabelled .* set C.reduce_zero_label = True"),
        (152, False, "152 is .* nor 255; check C.num_classes"),
    ],
)
def test_labels_with_the_other_meaning_of_zero_are_refused(value, reduce_zero_label, complaint, tmp_path):
    path = write_image(tmp_path / "label.tif", np.array([[1, value]], dtype=np.int32))
    with pytest.raises(UserError, match=f"label value {complaint}"):
        read_label(path, 150, reduce_zero_label)


def test_label_of_another_size_is_refused_with_both_sizes(photo, label, tmp_path):
    image = write_image(tmp_path / "image.png", photo)
    sample = Sample("image", image, write_image(tmp_path / "label.png", label))
    with pytest.raises(UserError, match=r"label\.png: 44x30 pixels, but its image .*image\.png has 160x120"):
        Files(NUM_CLASSES).pair(sample)


def test_pair_is_image_and_label(label, tmp_path):
    image = write_image(tmp_path / "image.png", PALETTE[label])
    sample = Sample("image", image, write_palette_label(tmp_path / "label.png", label))
    found_image, found_label = Files(NUM_CLASSES).pair(sample)
    np.testing.assert_array_equal(found_label, label)
    np.testing.assert_array_equal(found_image, PALETTE[label])


def lose_pixels(content: bytes) -> bytes:
    middle = content.index(b"IDAT") + 20
    return content[:middle] + bytes(8) + content[middle + 8 :]


DAMAGE = {
    "empty": lambda png: b"",
    "text": lambda png: b"not an image",
    "zeros": lambda png: bytes(1000),
    "head of a PNG": lambda png: png[:8],
    "head of a JPEG": lambda png: b"\xff\xd8\xff\xe0",
    **{f"{share} of a PNG": lambda png, share=share: png[: int(share * len(png))] for share in (0.1, 0.5, 0.9)},
    "pixels lost": lose_pixels,
}


@pytest.mark.parametrize("read", READERS, ids=READER_IDS)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_file_is_named(read, damage, label, tmp_path):
    path = write_palette_label(tmp_path / "label.png", label)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"label\.png: can't be decoded; the file is damaged"):
        read(path)


@pytest.mark.parametrize("read", READERS, ids=READER_IDS)
def test_missing_file_and_folder_in_its_place_are_named(read, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png: no such file; check the list and C\.dataset_path"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="can't be decoded"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_truncated_jpeg_is_refused(share, options, photo, tmp_path):
    path = write_image(tmp_path / "image.jpg", photo, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"image\.jpg: can't be decoded; the file is damaged"):
        read_image(path)


def test_truncated_jpeg_is_refused_even_if_the_decoder_fills_it_up(photo, tmp_path, monkeypatch):
    path = write_image(tmp_path / "image.jpg", photo)
    monkeypatch.setattr("furnace.datasets.picture.cv2.imdecode", lambda *_: photo.copy())
    assert read_image(path).shape == photo.shape
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="can't be decoded; the file is damaged"):
        read_image(path)


@pytest.mark.parametrize("thumbnail", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"restart_marker_blocks": 4}], ids=str
)
def test_a_jpeg_truncated_at_any_byte_after_its_first_scan_is_detected(options, thumbnail, photo, tmp_path):
    exif = b""
    if thumbnail:
        exif = b"Exif\0\0" + write_image(tmp_path / "thumbnail.jpg", photo[::4, ::4]).read_bytes()
    path = write_image(tmp_path / "image.jpg", photo, exif=exif, **options)
    content = path.read_bytes()
    np.testing.assert_allclose(read_image(path), np.asarray(Image.open(path)).astype(int), atol=2)
    assert completed(content) is content
    first_scan = content.index(b"\xff\xda", len(exif))
    whole = np.asarray(Image.open(path))
    for end in range(first_scan + 2, len(content) - 2, 7):
        path.write_bytes(content[:end] + b"\xff\xd9")
        for tail in (b"", bytes(1000)):  # zeros: space that an interrupted download had reserved
            assert completed(content[:end] + tail) is None or np.array_equal(np.asarray(Image.open(path)), whole)
    assert completed(content[: -len(content) // 10]) is None


@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(lost, photo, tmp_path):
    path = write_image(tmp_path / "image.jpg", photo)
    expected = read_image(path)
    path.write_bytes(path.read_bytes()[:-lost])
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("appended", [b"\0\0\0", b"\n", b"\xff\xda more data \xff\xd8"])
def test_jpeg_with_something_appended_is_read(appended, photo, tmp_path):
    path = write_image(tmp_path / "image.jpg", photo)
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + appended)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", READERS, ids=READER_IDS)
@pytest.mark.parametrize(
    "side, complaint",
    [
        (11_000, "can't be decoded"),  # as its pixels are missing
        (12_000, "12000x12000 pixels are more than the limit of 134217728; cut it into tiles"),
        (2**15, "32768x32768 pixels are more than the limit of 134217728; cut it into tiles"),
    ],
)
def test_image_that_claims_an_enormous_size_is_refused(read, side, complaint, tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b""))
    with pytest.raises(UserError, match=rf"bomb\.png: {complaint}"):
        read(path)


@pytest.mark.parametrize("tail", ["zeros", "sector"])
def test_a_label_png_with_other_bytes_in_its_pixels_is_refused(tail, tmp_path):
    label = np.random.default_rng(0).integers(0, 3, (200, 300), dtype=np.uint8).repeat(3, axis=1)
    path = tmp_path / "label.png"
    Image.fromarray(label).save(path)
    content = path.read_bytes()
    begin, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    for at in range(begin, end, 509):
        stop = len(content) if tail == "zeros" else min(at + 16, end)
        if content[at:stop].strip(b"\0"):
            path.write_bytes(content[:at] + bytes(stop - at) + content[stop:])
            with pytest.raises(UserError, match="can't be decoded"):
                read_label(path, 3)
            with pytest.raises(Exception):  # noqa: B017  (as its docstring says, any of a decoder's)
                decode_indices(path.read_bytes())


@pytest.mark.parametrize("appended", [b"PK\3\4ABCDEFGH", b"\r\n--Boundary--\r\n", bytes(40)])
def test_a_label_png_with_something_appended_is_read(appended, label, tmp_path):
    path = write_palette_label(tmp_path / "label.png", label)
    expected = read_label(path, 21)
    path.write_bytes(path.read_bytes() + appended)
    np.testing.assert_array_equal(read_label(path, 21), expected)


def encoded(kind: str) -> bytes:
    """A small label map, encoded in a format and mode such as "png P"."""
    suffix, mode = kind.split()
    content = io.BytesIO()
    Image.fromarray(blocky_label(np.random.default_rng(0), (9, 13))).convert(mode).save(content, suffix)
    return content.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("png L", "png P", "tiff L", "bmp L", "gif P", "ppm L", "jpeg L")}


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from(sorted(ENCODED)),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
def test_any_damage_gives_pixels_or_a_user_error(tmp_path_factory, kind, changes, share):
    content = bytearray(ENCODED[kind])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: round(len(content) * min(1, 2 * share))])
    for read, dimensions in zip(READERS, (3, 2), strict=True):
        try:
            found = read(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert found.dtype == np.uint8
            assert found.ndim == dimensions
