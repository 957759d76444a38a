"""The one exception that a user is meant to read, and how a command ends with it."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130


class UserError(Exception):
    """Something the user can put right: one line that says what, which file or key, and what to do.

    The commands print the message without a traceback and exit with status 2.
    """


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit: with its status, or 2 and one line where the user can put something right."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(USER_ERROR_STATUS)  # the first process says it for all
        # A loader's worker hands over its error with a traceback in front; the last part is ours.
        message = str(error).rsplit("UserError: ", 1)[-1].strip()
        Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
        sys.exit(USER_ERROR_STATUS)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)
