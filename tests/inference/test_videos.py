"""Videos: frames read against frames written, and overlays as OpenCV reads them."""

import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from furnace.inference.video_writer import VideoWriter, writing
from furnace.inference.videos import Clock, Video
from furnace.utils.errors import UserError

FRAMES, RATE, SIZE = 12, 10, (32, 48)
CODECS = {".avi": "mjpeg", ".gif": "gif", ".mpg": "mpeg1video", ".webm": "libvpx-vp9"}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def write_video(
    path: Path, frames: int = FRAMES, times: list[int] | None = None, size=SIZE, rate=RATE, aspect=1
) -> Path:
    """Write noise of growing brightness; `times` in milliseconds. The index of an MP4 comes first."""
    rng = np.random.default_rng(0)
    codec = CODECS.get(path.suffix, "h264")
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.codec_context.sample_aspect_ratio = aspect
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            noise = rng.integers(0, 60, (*size, 3), dtype=np.uint8) + np.uint8(15 * number)
            frame = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=stream.pix_fmt)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_all(path: Path) -> tuple[Video, list[np.ndarray], list[float]]:
    with Video(path) as video:
        pictures, times = zip(*video.read(), strict=True)
    return video, list(pictures), [float(time) for time in times]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def hole(data: bytes) -> bytes:
    """The data with zeros in its middle."""
    return data[: len(data) // 2] + bytes(600) + data[len(data) // 2 + 600 :]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".gif"])
@pytest.mark.parametrize("frames", [1, FRAMES])
def test_a_whole_video_is_read_to_its_end(tmp_path, suffix, frames):
    rate = 25 if suffix == ".mpg" else RATE  # MPEG-1 supports few rates
    video, pictures, times = read_all(write_video(tmp_path / f"a{suffix}", frames, rate=rate))
    assert (video.frames, video.fault(), video.note()) == (frames, None, None)
    assert [round(picture.mean() - pictures[0].mean()) for picture in pictures] == pytest.approx(
        [15 * number for number in range(frames)], abs=6
    )
    np.testing.assert_allclose(times, np.arange(frames) / rate, atol=0.001)


@pytest.mark.parametrize(
    ("suffix", "damage", "fault"),
    [
        (".mp4", half, rf"^\S+a\.mp4: \d of {FRAMES} frames could be read, it ends after 0\.\d s of 1\.2 s; copy or"),
        (".mkv", half, r"^\S+a\.mkv: it ends after 0\.\d s of 1\.2 s; copy or convert it again"),
        (".webm", half, r"it ends after 0\.\d s of 1\.2 s"),
        (".mp4", hole, rf"\d+ of {FRAMES} frames could be read"),
        (".avi", hole, rf"\d+ of {FRAMES} frames could be read"),
        (".mpg", half, r"\d of the \d frames that were read are damaged"),
    ],
)
def test_missing_and_damaged_frames_are_reported(tmp_path, suffix, damage, fault):
    path = write_video(tmp_path / f"a{suffix}", rate=25 if suffix == ".mpg" else RATE)
    path.write_bytes(damage(path.read_bytes()))
    video, pictures, _ = read_all(path)
    assert 0 < len(pictures) == video.frames < FRAMES
    assert re.search(fault, video.fault())


def header_only(path: Path) -> None:
    cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)).release()


def test_a_video_without_a_frame_is_reported(tmp_path):
    header_only(tmp_path / "a.avi")
    with Video(tmp_path / "a.avi") as video:
        assert list(video.read()) == []
    assert "a.avi: no frame could be read" in video.fault()


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
        silence.rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), r"a\.mp4: can't be opened as a video \(Invalid data .*copy it again"),
        (lambda path: path.write_bytes(b"noise" * 99), r"a\.mp4: can't be opened as a video"),
        (sound_only, r"a\.mp4: contains no video"),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path, make: Callable[[Path], object], message):
    make(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=message):
        Video(tmp_path / "a.mp4")


def patch(path: Path, box: bytes, offset: int, layout: str, *values: int) -> None:
    """Write numbers after the name of a box or chunk."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.index(box) + len(box) + offset, *values)
    path.write_bytes(data)


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path):
    """Phones shorten videos in this way: the header still counts all frames."""
    path = write_video(tmp_path / "a.mp4")
    patch(path, b"elst", 8, ">I", 600)  # milliseconds
    video, pictures, _ = read_all(path)
    assert (video.claimed, len(pictures), video.fault()) == (FRAMES, 6, None)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), lambda stored: np.rot90(stored)),
        ((-1, 0, 0, 1), np.fliplr),
    ],
    ids=["90", "180", "270", "mirrored"],
)
def test_rotated_videos_are_read_as_a_player_shows_them(tmp_path, matrix, shown):
    path = write_video(tmp_path / "a.mp4", frames=1)
    _, (stored,), _ = read_all(path)
    a, b, c, d = (65536 * value for value in matrix)
    patch(path, b"tkhd", 40, ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    _, (picture,), _ = read_all(path)
    np.testing.assert_array_equal(picture, shown(stored))
    if shown is not np.fliplr:  # OpenCV rotates, but does not mirror
        seen = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
        assert np.abs(seen.astype(int) - picture).mean() < 3


def copy(path: Path, target: Path) -> Video:
    """Read a video and write it as an overlay is written."""
    with Video(path) as video:
        pictures = video.read()
        first, time = next(pictures)
        with writing(target, first.shape[:2], video) as writer:
            writer.write(first, time)
            assert not target.exists(), "a killed run leaves no file that looks finished"
            for picture, time in pictures:
                writer.write(picture, time)
    return video


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), 5, 60, 240])
def test_the_copy_has_the_rate_of_the_video(tmp_path, rate):
    copy(write_video(tmp_path / "a.mp4", rate=rate), tmp_path / "b.mp4")
    rates = [cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FPS) for name in ("a.mp4", "b.mp4")]
    assert rates == pytest.approx([float(rate)] * 2, rel=1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_keep_their_times_though_the_rate_varies(tmp_path, suffix):
    given = [0, 40, 80, 200, 210, 1000, 1033]
    copy(write_video(tmp_path / f"a{suffix}", len(given), given), tmp_path / "b.mp4")
    capture, times = cv2.VideoCapture(str(tmp_path / "b.mp4")), []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    assert times == pytest.approx(given, abs=1)


def test_an_impossible_rate_is_replaced_and_reported(tmp_path):
    path = write_video(tmp_path / "a.avi")
    patch(path, b"strh", 24, "<2I", 1, 90_000)
    video = copy(path, tmp_path / "b.mp4")
    assert "a.avi: its header has 90000 frames per second, time stamps are missing; its overlay has 25" in video.note()
    assert cv2.VideoCapture(str(tmp_path / "b.mp4")).get(cv2.CAP_PROP_FPS) == 25


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([7, 7.1, 7.5], [0, 0.1, 0.5]),
        ([None, None, None], [0, 0.25, 0.5]),
        ([0, None, 2, 2.5], [0, 0.25, 0.5, 1]),
        ([0, 1, 1, 2], [0, 1, 1.25, 2.25]),
        ([8, 9, 0, 1], [0, 1, 1.25, 2.25]),
    ],
    ids=["as they are", "none", "one missing", "twice the same", "begins again"],
)
def test_times_increase_for_all_time_stamps(stamps, times):
    clock = Clock(Fraction(4))
    found = [clock(None if stamp is None else Fraction(stamp).limit_denominator(100)) for stamp in stamps]
    assert [float(time) for time in found] == times


@pytest.mark.parametrize("size", [(41, 49), (1, 1), (40, 49)])
def test_the_last_row_and_column_of_odd_sizes_are_kept(tmp_path, size):
    picture = np.zeros((*size, 3), dtype=np.uint8)
    picture[-1], picture[:, -1] = 255, 255
    with Video(write_video(tmp_path / "a.mp4", frames=1)) as video, writing(tmp_path / "b.mp4", size, video) as writer:
        writer.write(picture, Fraction(0))
    there, shown = cv2.VideoCapture(str(tmp_path / "b.mp4")).read()
    height, width = size
    assert there and shown.shape == (height + height % 2, width + width % 2, 3)
    assert shown[height - 1].mean() > 200 and shown[:, width - 1].mean() > 200
    if min(size) > 1:
        assert shown[: height - 4, : width - 4].mean() < 10


def test_frames_of_another_size_are_resized_to_the_first(tmp_path):
    """Two files joined by `cat`, as MPEG allows; OpenCV stops at the joint."""
    parts = [write_video(tmp_path / f"{n}.mpg", size=size, rate=25) for n, size in enumerate([SIZE, (48, 64)])]
    (tmp_path / "a.mpg").write_bytes(b"".join(part.read_bytes() for part in parts))
    _, pictures, times = read_all(tmp_path / "a.mpg")
    assert {picture.shape[:2] for picture in pictures} == {SIZE, (48, 64)}
    assert np.diff(times).min() > 0.03
    copy(tmp_path / "a.mpg", tmp_path / "b.mp4")
    _, copied, _ = read_all(tmp_path / "b.mp4")
    assert len(copied) == len(pictures) and {picture.shape[:2] for picture in copied} == {SIZE}


def test_an_interrupted_video_can_be_played_under_another_name(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    with Video(path) as video, pytest.raises(KeyboardInterrupt), writing(tmp_path / "b.mp4", SIZE, video) as writer:
        for picture, time in video.read():
            writer.write(picture, time)
            if video.frames == 4:
                raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.incomplete.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "b.incomplete.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4
    copy(path, tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_full_disk_is_an_error(tmp_path):
    writer = VideoWriter(tmp_path / "b.mp4", Path("/dev/full"), SIZE, Fraction(RATE))
    writer.write(np.zeros((*SIZE, 3), dtype=np.uint8), Fraction(0))
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()


def test_the_shape_of_pixels_that_are_not_square_is_kept(tmp_path):
    path = write_video(tmp_path / "a.mp4", aspect=Fraction(4, 3))
    for number, expected in enumerate([Fraction(4, 3), Fraction(3, 4)]):
        copy(path, tmp_path / f"{number}.mp4")
        with av.open(str(tmp_path / f"{number}.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == expected
        patch(path, b"tkhd", 40, ">5i", 0, 65536, 0, -65536, 0)  # rotated by 90 degrees
