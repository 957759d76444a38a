"""Check, decode and encode the contents of files."""

import io

import numpy as np
import pytest
from PIL import Image

from furnace.datasets.catalog import voc_palette
from furnace.datasets.encoding import check_jpeg, check_png, decode_indices, encode_label, require_values
from tests.official_archives import jpeg, png

LABEL = np.append(np.arange(21), 255).astype(np.uint8).reshape(2, 11)


@pytest.mark.parametrize("palette", [None, voc_palette(21)])
def test_encoded_labels_decode_to_the_same_labels(palette):
    content = encode_label(LABEL, palette)
    np.testing.assert_array_equal(decode_indices(content), LABEL)
    assert check_png(content) == content


def test_palette_labels_show_the_colours_of_voc():
    picture = np.asarray(Image.open(io.BytesIO(encode_label(LABEL, voc_palette(21)))).convert("RGB"))
    assert picture[0, 1].tolist() == [128, 0, 0]
    assert picture[1, 4].tolist() == [192, 128, 128]
    assert picture[1, 10].tolist() == [224, 224, 192]


def test_grey_labels_are_their_own_values():
    assert Image.open(io.BytesIO(encode_label(LABEL))).mode == "L"


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 4)])
def test_colour_pictures_are_refused_as_labels(shape):
    with pytest.raises(ValueError, match="one class index per pixel"):
        decode_indices(png(np.zeros(shape, dtype=np.uint8)))


def test_values_beyond_the_classes_are_refused():
    assert require_values(LABEL, 21) is LABEL
    with pytest.raises(ValueError, match="label value 20 is neither a class"):
        require_values(LABEL, 20)


def test_truncated_files_are_refused():
    whole = jpeg(0)
    assert check_jpeg(whole) == whole
    for share in (0, 0.01, 0.3, 0.9, 0.99):
        with pytest.raises((ValueError, OSError)):
            check_jpeg(whole[: int(share * len(whole))])
    whole = png(LABEL)
    for length in (0, 8, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match="truncated"):
            check_png(whole[:length])
        with pytest.raises((ValueError, OSError, SyntaxError)):
            decode_indices(whole[:length])


def test_other_formats_are_refused():
    for function, content in ((check_jpeg, png(LABEL)), (check_png, jpeg(0)), (decode_indices, jpeg(0))):
        with pytest.raises((ValueError, OSError)):
            function(content)
