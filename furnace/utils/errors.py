"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that says what, which file or key, and what to do.

    The commands print the message without a traceback and exit with status 2.
    """
