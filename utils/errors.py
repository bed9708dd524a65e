"""One exception for what a user or a file can get wrong, and how the commands show it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user or a file got wrong: the message names it, says what is allowed and what to do."""


def report_user_errors(main: Callable) -> Callable:
    """Decorate a command's `main`: a `UserError` is printed without a traceback and the process exits with 2."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapper
