"""Write videos with PyAV: MP4 files for any player; incomplete files get another name."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from furnace.inference.videos import Video
from furnace.utils.errors import UserError
from furnace.utils.files import replacing

CLOCK = Fraction(1, 120_000)  # seconds; frames at 24000/1001, 30000/1001, 25 and 60 Hz last whole ticks
CODEC, CODEC_OPTIONS = "h264", {"preset": "veryfast", "crf": "20"}


class VideoWriter:
    """An MP4 video, H.264, for any player.

    Args:
        path: the file that messages name.
        part: the file to write, with any suffix.
        size: (H, W) of all pictures; odd sizes repeat their last row or column, as players need even sizes.
        rate: frames per second, a hint to the encoder.
        aspect: pixel width / pixel height; None for 1.

    Raises:
        UserError: PyAV has no encoder, or the encoder fails.
        OSError: the disk is full.
    """

    def __init__(self, path: Path, part: Path, size: tuple[int, int], rate: Fraction, aspect: Fraction | None = None):
        import av

        self.path, self.size, self._av = path, size, av
        with self._refusals():
            self._container = av.open(str(part), "w", format="mp4")
            self._stream = self._container.add_stream(CODEC, rate=rate, options=CODEC_OPTIONS)
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = CLOCK
        self._stream.codec_context.sample_aspect_ratio = aspect or Fraction(1)

    def write(self, picture: np.ndarray, time: Fraction) -> None:
        """Add a picture (H, W, 3) uint8 RGB, resized to `size` if necessary, shown from `time` in seconds."""
        height, width = self.size
        if picture.shape[:2] != self.size:
            picture = cv2.resize(picture, (width, height))
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = round(time / CLOCK), CLOCK
        with self._refusals():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames and the index, without which the file can't be played."""
        with self._refusals():
            self._container.mux(self._stream.encode())
            self._container.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):
                raise
            raise UserError(
                f"{self.path}: can't be written as a video ({error}); use --no-overlay for label maps only"
            ) from error


@contextmanager
def writing(path: Path, size: tuple[int, int], video: Video) -> Iterator[VideoWriter]:
    """Context with a writer of `path` for pictures of `size` (H, W), at the rate of `video`.

    The file gets its name when it is complete. If the block fails, the frames so far become `NAME.incomplete.mp4`,
    which can be played; a killed process leaves neither file.

    Raises:
        UserError: the video can't be written.
    """
    incomplete = path.with_suffix(f".incomplete{path.suffix}")
    with replacing(path) as part:
        writer = VideoWriter(path, part, size, video.rate, video.aspect)
        try:
            yield writer
        except BaseException:
            writer.close()
            part.replace(incomplete)
            raise
        writer.close()
    incomplete.unlink(missing_ok=True)
