"""Find pictures and videos by file, folder or pattern, and name their results."""

import glob
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from furnace.datasets.folders import check_name, find_files
from furnace.datasets.splits import IMAGE_SUFFIXES
from furnace.utils.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Input:
    """A picture or video, and the name of its results: its path relative to the given folder, without suffix."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(paths: list[str], skip: Path) -> list[Input]:
    """The pictures and videos of files, folders (searched recursively) and glob patterns, in order.

    Args:
        paths: files, folders and patterns.
        skip: folder of results; its files are left out if a folder or pattern includes it.

    Raises:
        UserError: a path does not exist or has no picture or video, or two results would have the same name.
    """
    found: dict[Path, Input] = {}
    for text in paths:
        matches = find_matches(text, skip)
        if not matches and skip.resolve() in (Path(text).resolve(), *Path(text).resolve().parents):
            raise UserError(f"-p {skip}: is or contains the input {text}; choose another folder for the results")
        if not matches:
            raise UserError(f"{text}: no picture or video found ({', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})")
        root = fixed_folder(text)
        for path in matches:
            found.setdefault(path.resolve(), Input(path, path.relative_to(root).with_suffix("").as_posix()))
    return distinct(list(found.values()))


def find_matches(text: str, skip: Path) -> list[Path]:
    """The files of one argument. Raises UserError if it is not a path or pattern, or is a file of another type."""
    if Path(text).is_file():
        if Path(text).suffix.lower() not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
            raise UserError(f"{text}: is neither a picture nor a video ({', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})")
        return [Path(text)]
    if not Path(text).is_dir() and not glob.has_magic(text):
        raise UserError(f"{text}: no such file or folder")
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    results = skip.resolve()
    if Path(text).is_dir():
        candidates = find_files(Path(text), suffixes)
    else:
        folder = fixed_folder(text)  # brackets in names of folders that exist are no pattern
        pattern = Path(glob.escape(str(folder))) / Path(text).relative_to(folder)
        matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
        candidates = [path for path in matches if path.is_file() and path.suffix.lower() in suffixes]
        for path in candidates:
            check_name(path)
    return [path for path in candidates if not path.resolve().is_relative_to(results)]


def fixed_folder(text: str) -> Path:
    """The folder to which the names of an argument's results are relative."""
    path = Path(text)
    if path.is_dir():
        return path
    return next(folder for folder in path.parents if folder.is_dir())


def distinct(inputs: list[Input]) -> list[Input]:
    """Keep suffixes if names differ only in them (`a.jpg`, `a.png`). Raises UserError if names are still equal."""
    count = Counter(entry.name for entry in inputs)
    named = [entry if count[entry.name] == 1 else Input(entry.path, entry.name + entry.path.suffix) for entry in inputs]
    first: dict[str, Path] = {}
    for entry in named:
        if entry.name in first:
            raise UserError(
                f"{entry.path} and {first[entry.name]}: their results would have the same name; "
                "give the folder that contains both, or predict them one after the other, into different folders (-p)"
            )
        first[entry.name] = entry.path
    for entry in named:
        # The frames of a video are numbered pictures in a folder with its name.
        for folder in Path(entry.name).parents:
            if (video := first.get(folder.as_posix())) and Input(video, "").is_video:
                raise UserError(
                    f"{entry.path} and the frames of {video}: their results would have the same name; predict them one "
                    "after the other, into different folders (-p)"
                )
    return named
