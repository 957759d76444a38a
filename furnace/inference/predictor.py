"""Predict label maps, coloured overlays and confidence maps for pictures and videos."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from furnace.datasets.reading import read_image
from furnace.engine.distributed import rank, totals_at_the_end, world_size
from furnace.inference.choice import choose_snapshot
from furnace.inference.inputs import Input, find_inputs
from furnace.inference.options import OPACITY
from furnace.inference.segmenter import Prediction, Segmenter, to_array
from furnace.inference.video_writer import writing
from furnace.inference.videos import Video
from furnace.utils.background import BackgroundWriter, ahead
from furnace.utils.errors import UserError
from furnace.utils.files import explained
from furnace.utils.fonts import missing_note
from furnace.utils.progress import ProgressBar
from furnace.utils.settings import Settings
from furnace.utils.terminal import open_console
from furnace.utils.visualize import legend, overlay, save_labels, save_picture

INCOMPLETE_STATUS = 1
OVERLAY, MAPS = "overlay", ("label", "confidence")  # folders of the results


@dataclass(frozen=True)
class Outputs:
    """Folder of the predictions, and the maps to write in addition to the label maps."""

    folder: Path
    overlay: bool = True
    confidence: bool = False
    opacity: float = OPACITY


class Predictor:
    """Label pictures and videos with a snapshot of the experiment of `C`.

    Args:
        C: checked settings.
        device: where to compute.
        branch: as in `Segmenter`.
        outputs: what to write, and where: `label/NAME.png` (palette PNG), `overlay/NAME.png` (or `.mp4`) and
            `confidence/NAME.png` (255 is certain); NAME includes the sub-folders of the input. Maps of a video are
            numbered pictures in folders NAME, except the overlay.
        console: for progress and messages.

    Attributes:
        skipped: reasons why this process could not read inputs and left them out.
        faulty: missing or damaged parts of videos that this process predicted.
        status: exit status of the command after `run`: 1 if any process found such a video, else 0.
    """

    def __init__(
        self, C: Settings, device: torch.device, branch: str | None, outputs: Outputs, console: Console | None = None
    ):
        self.C, self.outputs = C, outputs
        self.console = console or open_console(quiet=rank() > 0)
        self.segmenter = Segmenter(C, device, branch)
        self.skipped: list[str] = []
        self.faulty: list[str] = []
        self.status = 0

    def run(self, which: str, paths: list[str]) -> list[Input]:
        """Predict files, folders and glob patterns with the snapshot named by `which`; returns the inputs found.

        Raises:
            UserError: nothing to predict, several snapshots, an input that would be overwritten or can't be read.
        """
        snapshot = choose_snapshot(self.C, which, "prediction", self.segmenter.asked)
        found = find_inputs(paths, skip=self.outputs.folder)
        self.check_targets(found)
        with explained(self.outputs.folder):
            self.outputs.folder.mkdir(parents=True, exist_ok=True)
        share = found[rank() :: world_size()]
        pictures = [entry for entry in share if not entry.is_video]
        videos = [entry for entry in share if entry.is_video and self.opens(entry.path)]  # not after hours of work
        self.segmenter.load(snapshot)
        for note in self.segmenter.notes:
            self.console.print(note, soft_wrap=True, highlight=False)

        with explained(self.outputs.folder), BackgroundWriter() as background:
            if pictures:
                with ProgressBar("pictures", len(pictures), self.console) as bar:
                    self.predict_pictures(pictures, bar, background)
            for video in videos:
                self.predict_video(video, background)
        for reason in self.skipped:
            self.warn(f"left out: {reason}")
        for fault in self.faulty:
            self.warn(f"incomplete: {fault}")
        left_out, faulty = totals_at_the_end([len(self.skipped), len(self.faulty)])
        self.status = INCOMPLETE_STATUS if faulty else 0
        if rank() == 0:
            with explained(self.outputs.folder):
                save_picture(
                    self.outputs.folder / "legend.png",
                    legend(self.segmenter.classes.names, self.segmenter.classes.palette),
                )
            if note := missing_note(self.segmenter.classes.names, "legend.png"):
                self.console.print(note, style="yellow", soft_wrap=True, highlight=False)
            done = f"{len(found) - left_out - faulty} predicted by {snapshot.name}: {self.outputs.folder}"
            done += f"; {left_out} could not be read" if left_out else ""
            done += f"; {faulty} with missing or damaged frames" if faulty else ""
            self.console.print(done, soft_wrap=True)
        return found

    def check_targets(self, found: list[Input]) -> None:
        """Raise UserError if an input is in the folder of the results."""
        inputs = {entry.path.resolve() for entry in found}
        folders = {(self.outputs.folder / name).resolve() for name in ("", OVERLAY, *MAPS)}  # each may be a link
        inside = [path for path in inputs if any(path.is_relative_to(folder) for folder in folders)]
        if inside:
            raise UserError(
                f"{min(inside)}: is in the results folder and could be overwritten; choose another folder with -p"
            )

    def predict_pictures(self, pictures: list[Input], bar: ProgressBar, background: BackgroundWriter) -> None:
        def readable() -> Iterator[tuple[np.ndarray, tuple[Input, np.ndarray]]]:
            for entry, image in ahead(self.read, pictures):
                if image is None:
                    bar.update()
                else:
                    yield image, (entry, image)

        for (entry, image), found in self.segmenter.stream(readable(), self.outputs.confidence):
            labels = self.save_maps(entry.name, found, background)
            if self.outputs.overlay:
                background(self.save_overlay, entry.name, image, labels)
            bar.update()

    def read(self, picture: Input) -> np.ndarray | None:
        """RGB pixels (H, W, 3) uint8. If unreadable: None if `C.on_bad_image` is "skip", else UserError."""
        try:
            return read_image(picture.path)
        except UserError as error:
            return self.leave_out(error)

    def predict_video(self, entry: Input, background: BackgroundWriter) -> None:
        """Predict a video frame by frame; its overlay is a video, its other maps are numbered pictures."""
        target = self.outputs.folder / "overlay" / f"{entry.name}.mp4"
        writer, number = None, -1
        with Video(entry.path) as video, ExitStack() as stack:
            bar = stack.enter_context(ProgressBar(entry.path.name, video.claimed, self.console, unit="frame"))
            frames = ((picture, (picture, time)) for picture, time in video.read())
            stream = self.segmenter.stream(frames, self.outputs.confidence)
            for number, ((picture, time), found) in enumerate(stream):
                labels = self.save_maps(f"{entry.name}/{number:06d}", found, background)
                if self.outputs.overlay:
                    writer = writer or stack.enter_context(writing(target, picture.shape[:2], video))
                    writer.write(self.overlay(picture, labels), time)
                bar.update()
        self.remove_frames(entry.name, number + 1)
        if fault := video.fault():
            self.faulty.append(fault)
        if note := video.note():
            self.warn(f"note: {note}")

    def remove_frames(self, name: str, count: int) -> None:
        """Remove the maps of an earlier, longer video of the same name after its first `count` frames."""
        for path in (path for kind in MAPS for path in (self.outputs.folder / kind / name).glob("*.png")):
            if path.stem.isdecimal() and int(path.stem) >= count:
                path.unlink()

    def opens(self, path: Path) -> bool:
        """True if a file opens as a video. If not: False if `C.on_bad_image` is "skip", else UserError."""
        try:
            with Video(path):
                return True
        except UserError as error:
            self.leave_out(error)
            return False

    def leave_out(self, error: UserError) -> None:
        """Record an unreadable input if `C.on_bad_image` is "skip"; raise UserError otherwise."""
        if self.C.on_bad_image != "skip":
            raise UserError(f"{error}; use -o on_bad_image=skip to leave out such files") from error
        self.skipped.append(str(error))

    def warn(self, text: str) -> None:
        """Print a line about an input, from any process."""
        Console(stderr=True).print(text, style="yellow", markup=False, soft_wrap=True)

    def save_maps(self, name: str, found: Prediction, background: BackgroundWriter) -> np.ndarray:
        """Write the label map and, if requested, the confidence map; returns the labels (H, W) uint8."""
        labels = to_array(found.labels)
        background(save_labels, self.outputs.folder / "label" / f"{name}.png", labels, self.segmenter.classes.palette)
        if found.confidence is not None:
            confidence = to_array(found.confidence.mul(255).round())
            background(save_picture, self.outputs.folder / "confidence" / f"{name}.png", confidence)
        return labels

    def save_overlay(self, name: str, image: np.ndarray, labels: np.ndarray) -> None:
        save_picture(self.outputs.folder / "overlay" / f"{name}.png", self.overlay(image, labels))

    def overlay(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return overlay(image, labels, self.segmenter.classes.palette, self.outputs.opacity)
