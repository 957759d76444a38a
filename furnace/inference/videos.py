"""Read videos with PyAV: frames and times as a player shows them, and a check of the header against what was read.

PyAV is imported only if there is a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from furnace.utils.errors import UserError

if TYPE_CHECKING:
    from av import Packet, VideoFrame

DEFAULT_RATE = Fraction(25)  # frames per second, if neither header nor time stamps have a rate
MAX_RATE = 1000  # headers with a higher rate give the ticks of a clock, not frames
TOLERANCE = 0.05  # seconds; a file may end this much before the length in its header, as time stamps are rounded
MICROSECONDS = 1_000_000  # per second; PyAV's unit for file durations
LENGTH_FORMATS = ("mov", "matroska")  # lengths of other formats are only estimates from the existing data
EDITED_FORMAT = "mov"  # includes MP4; its edit list can hide frames


class Video:
    """A video, open for reading; as a context manager it closes itself.

    Args:
        path: a file of any format that PyAV opens.

    Attributes:
        claimed: number of frames in the header; None if missing.
        stated_rate: frames per second in the header; None if missing.
        rate: the same, or `DEFAULT_RATE` if it is missing or above `MAX_RATE`.
        aspect: pixel width / pixel height, after the first frame was read; None if unknown.
        frames: number of frames read.

    Raises:
        UserError: the file can't be opened, or contains no video.
    """

    def __init__(self, path: Path):
        import av

        self.path, self._error = path, av.FFmpegError
        try:
            self._container = av.open(str(path), metadata_errors="replace")
        except av.FFmpegError as error:
            raise UserError(
                f"{path}: can't be opened as a video ({error.strerror}); it is damaged or not a video, copy it again"
            ) from error
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            self._container.close()
            raise UserError(f"{path}: contains no video that PyAV can decode; choose another file, or convert it")
        self.stated_rate = self._stream.average_rate
        self.rate = self.stated_rate if self.stated_rate and self.stated_rate <= MAX_RATE else DEFAULT_RATE
        self.claimed = self._stream.frames or None
        formats, duration = self._container.format.name, self._container.duration
        self._is_edited = EDITED_FORMAT in formats
        has_length = duration is not None and any(name in formats for name in LENGTH_FORMATS)
        self._length = duration / MICROSECONDS if has_length else None
        self.aspect: Fraction | None = None
        self.frames = self._packets = self._refused = self._damaged = 0
        self._end = Fraction(0)  # seconds; end of all streams, as far as they were read
        self._clock = Clock(self.rate)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        self._container.close()

    def read(self) -> Iterator[tuple[np.ndarray, Fraction]]:
        """Yield decodable frames, (H, W, 3) uint8 RGB, upright, with their times in seconds from the first frame."""
        for packet in self._demuxed():
            for frame in self._decoded(packet):
                self.frames += 1
                self._damaged += frame.is_corrupt
                picture, is_turned = upright(frame)
                if self.frames == 1 and (aspect := self._stream.sample_aspect_ratio):
                    self.aspect = 1 / aspect if is_turned else aspect
                stamp = None if frame.pts is None else frame.pts * frame.time_base
                yield picture, self._clock(stamp)

    def fault(self) -> str | None:
        """Message about missing or damaged frames, after all were read; None if there are none."""
        ends_early = self._length is not None and self._end < self._length - TOLERANCE
        expected = self._expected(ends_early)
        parts = []
        if not self.frames:
            parts.append("no frame could be read")
        elif self.frames < expected:
            parts.append(f"{self.frames} of {expected} frames could be read")
        if ends_early:
            parts.append(f"it ends after {float(self._end):.1f} s of {self._length:.1f} s")
        if self._damaged:
            parts.append(f"{self._damaged} of the {self.frames} frames that were read are damaged")
        return f"{self.path}: {', '.join(parts)}; copy or convert it again to get all frames" if parts else None

    def note(self) -> str | None:
        """Message about an assumed rate, after all frames were read; None if the file has a rate or time stamps."""
        if self.stated_rate == self.rate or 2 * self._clock.assumed < self.frames:
            return None
        stated = f"{float(self.stated_rate):g} frames per second" if self.stated_rate else "no frame rate"
        return f"{self.path}: its header has {stated}, time stamps are missing; its overlay has {float(self.rate):g}"

    def _demuxed(self) -> Iterator[Packet]:
        """Yield the packets of the video stream; packets of other streams only move the end of the file."""
        try:
            for packet in self._container.demux():
                is_video = packet.stream.index == self._stream.index
                if packet.size and packet.pts is not None and not packet.is_discard:
                    lasts = packet.duration * packet.time_base if packet.duration else is_video / self.rate
                    self._end = max(self._end, packet.pts * packet.time_base + lasts)
                if is_video:
                    self._packets += packet.size > 0 and not packet.is_discard
                    yield packet
        except self._error:
            self._refused += 1

    def _decoded(self, packet: Packet) -> list[VideoFrame]:
        try:
            return packet.decode()
        except self._error:
            self._refused += 1
            return []

    def _expected(self, ends_early: bool) -> int:
        """Number of frames that the file should contain."""
        if self.claimed is None:
            return self.frames + self._refused
        if self._is_edited and not ends_early:
            return self._packets  # the header also counts the hidden frames
        return self.claimed


class Clock:
    """Strictly increasing times of frames, in seconds from the first, from their time stamps.

    Args:
        rate: frames per second if a stamp is missing, or does not increase by at least 1 / `MAX_RATE`.

    Attributes:
        assumed: number of frames whose time comes from `rate`.
    """

    def __init__(self, rate: Fraction):
        self.rate, self.assumed = rate, 0
        self._start: Fraction | None = None  # the stamp of time 0
        self._last: Fraction | None = None

    def __call__(self, stamp: Fraction | None) -> Fraction:
        if self._last is None:
            self._start, self._last = stamp, Fraction(0)
            return self._last
        known = None not in (stamp, self._start)
        if known and stamp - self._start >= self._last + Fraction(1, MAX_RATE):
            self._last = stamp - self._start
        else:  # later stamps continue from here, as in a file joined from several
            self.assumed += 1
            self._last += 1 / self.rate
            self._start = None if stamp is None else stamp - self._last
        return self._last


def upright(frame: VideoFrame) -> tuple[np.ndarray, bool]:
    """A frame as a player shows it, (H, W, 3) uint8 RGB, and True if height and width are swapped.

    Phones store the sensor's picture and a matrix that rotates or mirrors it for display: the pixel at (x, y) moves
    to (a x + c y, b x + d y), up to a shift.
    """
    picture = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    is_turned = abs(b) > abs(a)
    along_x, along_y = (c, b) if is_turned else (a, d)
    if is_turned:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: -1 if along_y < 0 else 1, :: -1 if along_x < 0 else 1]
    return np.ascontiguousarray(picture), is_turned
