"""Lists of samples: every format of a line; for any other text, a UserError with its position."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from furnace.datasets.splits import Sample, list_hash, read_lines, read_list, scan_list, write_list
from furnace.utils.errors import UserError
from tests.tiny_data import write_image, write_voc


@pytest.fixture
def write_source(tmp_path: Path):
    """`write_source(content)` writes text or bytes to a list file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set that no test changes."""
    return write_voc(tmp_path_factory.mktemp("shared"))


def test_ids_refer_to_image_and_label_of_the_folder(write_source, shared_root):
    folder = shared_root / "train_aug"
    expected = [
        Sample(name, folder / "image" / f"{name}.png", folder / "label" / f"{name}.png")
        for name in ("2007_000003", "2007_000000")
    ]
    source = write_source("2007_000003\n2007_000000\n")
    assert read_list(source, shared_root, "train_aug") == expected
    assert read_list(str(source), str(shared_root), "train_aug", labeled=False) == expected


@pytest.mark.parametrize("slash", ["", "/"])
def test_pairs_are_paths_from_the_root_with_or_without_a_leading_slash(write_source, tmp_path, slash):
    source = write_source(f"{slash}images/a.png\t{slash}labels/a_gtFine.png\n")
    expected = [Sample("a", tmp_path / "city/images/a.png", tmp_path / "city/labels/a_gtFine.png")]
    assert read_list(source, tmp_path / "city") == expected
    assert read_list(source, tmp_path / "city", labeled=False) == expected


@pytest.mark.parametrize(
    "image, label",
    [
        ("JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png"),
        (
            "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png",
            "gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png",
        ),
        ("images/training/ADE_train_00001609.jpg", "annotations/training/ADE_train_00001609.png"),
        ("train2017/000000000009.jpg", "masks/000000000009.png"),
    ],
)
def test_pairs_of_unimatch_are_separated_by_one_space(write_source, tmp_path, image, label):
    source = write_source(f"{image} {label}\r\n")
    expected = [Sample(Path(image).stem, tmp_path / image, tmp_path / label)]
    assert read_list(source, tmp_path) == expected == read_list(source, tmp_path, labeled=False)


@pytest.mark.parametrize("line", ["my photo.jpg", "a.png  b.png", "a b.png c.png"])
def test_other_spaces_are_part_of_a_name(write_source, tmp_path, line):
    (sample,) = read_list(write_source(line), tmp_path, labeled=False)
    assert (sample.image, sample.label) == (tmp_path / line, None)


def test_images_alone_are_unlabelled_and_may_be_absolute(write_source, tmp_path):
    absolute = write_image(tmp_path / "elsewhere" / "b.jpg", np.zeros((2, 2, 3), np.uint8))
    source = write_source(f"a.JPG\n/sub/c.png\n{absolute}\n")
    assert read_list(source, tmp_path / "root", labeled=False) == [
        Sample("a", tmp_path / "root/a.JPG", None),
        Sample("c", tmp_path / "root/sub/c.png", None),
        Sample("b", absolute, None),
    ]


def test_images_of_one_name_are_named_by_their_paths(write_source, tmp_path):
    lines = {"x/a.png": "x/a.png", "x/b.png": "b", "x/a.jpg": "x/a.jpg", "y/a.png": "y/a", "a.png": "a"}
    lines["../a.png"] = str(tmp_path / "a").lstrip("/")
    source = write_source("\n".join([*lines, "x/b.png"]))  # an image listed twice keeps its name
    names = [sample.name for sample in read_list(source, tmp_path / "root", labeled=False)]
    assert names == [*lines.values(), "b"]


def test_a_folder_is_searched_recursively_for_images(tmp_path):
    for name in ("b/2.PNG", "a/1.jpg", "0.jpeg"):
        write_image(tmp_path / "images" / name, np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    samples = read_list(tmp_path / "images", tmp_path, labeled=False)
    assert [(s.name, s.image.name, s.label) for s in samples] == [
        ("0", "0.jpeg", None),
        ("a/1", "1.jpg", None),
        ("b/2", "2.PNG", None),
    ]


@pytest.mark.parametrize(
    "content",
    [b"one\r\ntwo\r\n", b"\n\n  one  \n\n two", b"\xef\xbb\xbfone\ntwo\n", b"one\rtwo"],
    ids=["windows", "blank lines", "byte order mark", "old mac"],
)
def test_line_ends_blanks_and_a_byte_order_mark_do_not_matter(write_source, content):
    assert [line for _, line in read_lines(write_source(content))] == ["one", "two"]


def test_lines_are_numbered_as_in_an_editor(write_source):
    assert read_lines(write_source("\none\n\n\ntwo\n")) == [(2, "one"), (5, "two")]


@pytest.mark.parametrize(
    "content, complaint",
    [(b"", "is empty"), (b"\n \n\t\n", "is empty"), (b"\xff\xfe\x00\x01", "can't be read as a text list")],
)
def test_a_list_that_is_empty_or_no_text_is_refused(write_source, content, complaint):
    with pytest.raises(UserError, match=rf"list\.txt: .*{complaint}"):
        read_lines(write_source(content))


@pytest.mark.parametrize(
    "name, labeled, complaint",
    [
        ("nowhere.txt", True, r"nowhere\.txt: no such list; check C\.dataset_path"),
        ("", True, "is a folder, not a list"),
        ("", False, "contains no image"),
    ],
)
def test_a_missing_list_and_unusable_folders_are_named(name, labeled, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        read_list(tmp_path / name, tmp_path, labeled=labeled)


@pytest.mark.parametrize(
    "line, labeled, complaint",
    [
        ("a.png\tb.png\tc.png", True, "expected an image id, or IMAGE<TAB>LABEL"),
        ("a.png\t\tb.png", False, "expected an image id, or IMAGE<TAB>LABEL"),
        ("a\0b", True, "expected an image id, or IMAGE<TAB>LABEL"),
        ("a.png", True, "names no label"),
        ("2007_999999", True, r"no image .*train_aug/image/2007_999999\.\*"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_its_number(write_source, shared_root, line, labeled, complaint):
    with pytest.raises(UserError, match=rf"list\.txt:3: .*{complaint}"):
        read_list(write_source(f"2007_000001\n\n{line}\n"), shared_root, "train_aug", labeled)


def test_missing_image_folder_is_named(write_source, tmp_path):
    with pytest.raises(UserError, match=r"train_aug/image: no such folder; check C\.dataset_path"):
        read_list(write_source("2007_000001"), tmp_path, "train_aug")


GOOD_LINES = st.sampled_from(["2007_000001", "2008_000002", "a.png\tb.png", "/x/a.jpg\t/y/b.png"])


ANY_TEXT = st.lists(GOOD_LINES | st.text(max_size=20) | st.text("a./\t\0 \ufeff", max_size=8), max_size=5)


@settings(max_examples=120)
@given(ANY_TEXT.map(lambda lines: "\n".join(lines).encode()) | st.binary(max_size=40), st.booleans())
def test_any_content_gives_samples_or_a_user_error(shared_root, content, labeled):
    source = shared_root / "any.txt"
    source.write_bytes(content)
    try:
        samples = read_list(source, shared_root, "train_aug", labeled)
    except UserError as error:
        assert str(shared_root) in str(error)
    else:
        assert len(samples) == len(read_lines(source)) > 0
        assert all(sample.name and (sample.label or not labeled) for sample in samples)


@pytest.mark.parametrize("length", [300, 5000])
def test_a_path_that_is_too_long_for_the_system_does_not_crash(write_source, tmp_path, length):
    (sample,) = read_list(write_source("/" + "a" * length + ".png"), tmp_path, labeled=False)
    assert sample.image.parent == tmp_path


def test_list_hash_is_sha256_of_the_sorted_lines_joined_by_newlines(write_source):
    expected = hashlib.sha256(b"a\nb\nc").hexdigest()
    for content in ("a\nb\nc", "c\na\nb\n", "b\r\na\r\n\r\nc\r\n"):
        assert list_hash(write_source(content)) == expected
    assert list_hash(write_source("a\nb\nd")) != expected


def test_a_written_list_is_read_again_and_other_lines_overwrite_it_only_if_asked(tmp_path):
    path = tmp_path / "new" / "list.txt"
    write_list(path, ["b", "a"])
    write_list(path, ["a", "b"])
    assert read_lines(path) == [(1, "b"), (2, "a")], "the same lines in another order leave the file alone"
    with pytest.raises(UserError, match="lists other images"):
        write_list(path, ["a", "c"])
    write_list(path, ["a", "c"], overwrite=True)
    assert path.read_text() == "a\nc\n"


def test_scanning_continues_after_faulty_lines(write_source, shared_root):
    source = write_source("2007_000003\nnowhere\n2007_000000\na\tb\tc\n")
    samples, faults = scan_list(source, shared_root, "train_aug")
    assert samples == read_list(write_source("2007_000003\n2007_000000\n"), shared_root, "train_aug")
    assert [str(fault).split(": ")[0] for fault in faults] == [f"{source}:2", f"{source}:4"]
