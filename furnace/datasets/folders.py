"""Find the data files in users' folders; leave out hidden files and litter."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from furnace.utils.errors import UserError
from furnace.utils.terminal import note

LITTER = ("@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini")  # of storage servers and desktops; hidden files, too
LINE_ENDS = "\t\n\r"


def walk(folder: Path, recursive: bool = True) -> list[Path]:
    """The files below a folder, sorted, without hidden ones and litter; links are followed, a folder is read once."""
    return sorted(_walk(folder, recursive))


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(name for name in folders if recursive and real not in visited and not is_litter(name))
        if real not in visited:  # a link to a parent folder would never end
            yield from (path for name in files if not is_litter(name) and (path := Path(root, name)).is_file())
        visited.add(real)


def is_litter(name: str) -> bool:
    """True for names of files and folders that programs leave behind."""
    return name.startswith(".") or name in LITTER


def find_files(folder: Path, suffixes: Sequence[str], recursive: bool = True) -> list[Path]:
    """The files below a folder with one of the `suffixes`, in upper or lower case; a note counts the others.

    Raises:
        UserError: a list can't contain a file's name.
    """
    found, skipped, real = {}, Counter(), cache(os.path.realpath)
    # A file and links to it are one image, under the name of the file.
    for path in sorted(walk(folder, recursive), key=Path.is_symlink):
        if path.suffix.lower() in suffixes:
            check_name(path)
            file = os.path.realpath(path) if path.is_symlink() else os.path.join(real(path.parent), path.name)
            found.setdefault(file, path)
        else:
            skipped[path.suffix.lower() or "without a suffix"] += 1
    if skipped and found:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        note(f"left out of {folder}", f"{folder}: left out {counts}")
    return sorted(found.values())


def check_name(path: Path) -> None:
    """Raise UserError if a list can't contain a file's name: not UTF-8, or with a tab or line break."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!a}: the name is not UTF-8; rename the file, such as with convmv") from None
    if any(end in text for end in LINE_ENDS) or path.name != path.name.strip():
        raise UserError(f"{text!r}: the name contains a tab, a line break or a space at an end; rename the file")


def composed(text: str) -> str:
    """The NFC form of a name; macOS and other systems use different Unicode forms of the same name."""
    return unicodedata.normalize("NFC", text)


def existing(path: Path) -> Path:
    """The path with its name as on the disk: in this Unicode form, or in the other one."""
    if str(path).isascii() or path.exists():
        return path
    others = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((other for other in others if other.exists()), path)
