"""One exception for what a user or a file can get wrong, and how the commands show it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from utils.interrupts import end_interrupted, interruptible


class UserError(ValueError):
    """Something the user or a file got wrong: the message names it, says what is allowed and what to do."""


def report_user_errors(main: Callable) -> Callable:
    """Decorate a command's `main`: errors of the user and interrupts end it with one line instead of a traceback.

    The exit code is 2 for a `UserError`, 130 for Ctrl-C, 143 for SIGTERM.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        interruptible()
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as error:
            end_interrupted(error)

    return wrapper
