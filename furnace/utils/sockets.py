"""Sockets between a process and its loaders: short names in the temporary folder, and no words about a lost peer."""

import os
import sys
import tempfile
from multiprocessing.util import get_temp_dir
from types import TracebackType

from furnace.utils.errors import UserError

LONGEST = 60  # bytes of the temporary folder: names of sockets end at 107, and Python's add up to 40
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_sockets() -> None:
    """Put the sockets of this process and its children into a short folder if TMPDIR is too long.

    All other temporary files stay in TMPDIR. Later calls do nothing.

    Raises:
        UserError: TMPDIR is too long and no other folder can be written.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST:
        return
    short = next((place for place in SHORT_FOLDERS if os.access(place, os.W_OK | os.X_OK)), None)
    if short is None:
        raise UserError(
            f"TMPDIR = {folder}: loader processes need a temporary folder whose name has at most {LONGEST} characters; "
            "set TMPDIR to one, or -o num_workers=0"
        )
    try:
        tempfile.tempdir = short
        get_temp_dir()  # multiprocessing creates it once and keeps it
    finally:
        tempfile.tempdir = folder


def ignore_lost_peers() -> None:
    """Let this process, a loader, print no traceback if the process that fetches a batch from it ends meanwhile.

    Python's thread that hands over the batch would print one; PyTorch reports all other errors of a loader.
    """
    show = sys.excepthook

    def show_others(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            show(kind, error, trace)

    sys.excepthook = show_others
