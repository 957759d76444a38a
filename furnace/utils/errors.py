"""The exceptions that a user is meant to read, and how a command ends with them."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

USER_ERROR_STATUS = 2
SIGNAL_BASE = 128  # plus its number is the status of a command that a signal has ended, as shells have it
INTERRUPTED_STATUS = SIGNAL_BASE + signal.SIGINT
# What the first process of a run will say, too, the others hold back; by then the launcher has ended them.
FIRST_SPEAKS_SECONDS = 3


class UserError(Exception):
    """Something the user can put right: one line that says what, which file or key, and what to do.

    The commands print the message without a traceback and exit with status 2.
    """


class Stopped(Exception):
    """The end of a command that a signal asked to stop, all being saved; `status` is its exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def last_message(error: UserError) -> str:
    """The message alone: a loader's worker hands over its error with a traceback in front."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit: with its status, or 2 and one line where the user can put something right."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _say(f"[bold red]error:[/] {escape(last_message(error))}")
        sys.exit(USER_ERROR_STATUS)
    except Stopped as stop:
        if _rank() == "0":
            _say(f"[bold]stopped:[/] {escape(str(stop))}")
        sys.exit(stop.status)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _say(text: str) -> None:
    prefix = ""
    if _rank() != "0":
        time.sleep(FIRST_SPEAKS_SECONDS)
        prefix = f"process {_rank()}: "
    Console(stderr=True).print(f"{prefix}{text}", soft_wrap=True, highlight=False)
