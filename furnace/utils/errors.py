"""Exceptions for users, and the exit of a command that raises them."""

import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from furnace.utils.terminal import process_number

USER_ERROR_STATUS = 2
SIGNAL_BASE = 128  # exit status of a command that a signal ended, minus the signal's number, as in shells
INTERRUPTED_STATUS = SIGNAL_BASE + signal.SIGINT
# Mostly all processes have the same error: the first one reports it, and the launcher ends the others meanwhile.
TURN_SECONDS = 3


class UserError(Exception):
    """An error that the user can correct: one line that says what, which file or key, and what to do.

    The commands print the message without a traceback and exit with status 2.
    """


class PeerEnded(UserError):
    """Another process of the run has ended; that process says why."""


class Stopped(Exception):
    """End of a command that a signal stopped, with everything saved; `status` is its exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def last_message(error: UserError) -> str:
    """Message of an error, without the traceback that a loader's worker puts before it."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with its status; on a UserError print one line and exit with 2."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        # Who only knows that another one has ended must not end the run before that one has told why.
        turn = 2 if isinstance(error, PeerEnded) else min(process_number(), 1)
        _say(f"[bold red]error:[/] {escape(last_message(error))}", turn)
        sys.exit(USER_ERROR_STATUS)
    except Stopped as stop:
        if process_number() == 0:
            _say(f"[bold]stopped:[/] {escape(str(stop))}")
        sys.exit(stop.status)
    except KeyboardInterrupt:
        if process_number() == 0:
            _say("[bold]stopped:[/] by Ctrl-C")
        sys.exit(INTERRUPTED_STATUS)


def _say(text: str, turn: int = 0) -> None:
    """Print one line on stderr, after the processes with an earlier turn."""
    time.sleep(turn * TURN_SECONDS)
    prefix = f"process {process_number()}: " if process_number() else ""
    Console(stderr=True).print(f"{prefix}{text}", soft_wrap=True, highlight=False)
