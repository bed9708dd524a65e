"""One exception for what a user or a file can get wrong, and how the commands show it."""

from __future__ import annotations

import errno
import functools
import io
import sys
from collections.abc import Callable

from utils.interrupts import end_interrupted, interruptible


class UserError(ValueError):
    """Something the user or a file got wrong: the message names it, says what is allowed and what to do."""


def report_user_errors(main: Callable) -> Callable:
    """Decorate a command's `main`: errors of the user and interrupts end it with one line instead of a traceback.

    The exit code is 2 for a `UserError` and for running out of memory, 130 for Ctrl-C, 143 for SIGTERM. Characters that
    the terminal's encoding lacks are printed as escapes.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        interruptible()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt as error:
            end_interrupted(error)
        except Exception as error:
            if (known := as_user_error(error)) is None:
                raise
            print(f"error: {known}", file=sys.stderr)
            sys.exit(2)

    return wrapper


# What no message of our own foresaw, but names a file and is no fault of the code: permissions, a full disk, a name
# that is too long.
_ERRORS_OF_THE_DISK = {
    getattr(errno, name)
    for name in (
        "ENAMETOOLONG",
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOSPC",
        "EDQUOT",
        "EIO",
        "ELOOP",
        "EISDIR",
        "ENOTDIR",
    )
    if hasattr(errno, name)
}
_LESS_MEMORY = (
    "use a smaller batch (global_batch_size, or grad_accum_steps in training) or a smaller model (arch.*)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for `MemoryError` and for what torch raises when a device or the machine has no memory left."""
    signs = ("out of memory", "allocate memory", "not enough memory")
    said = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    return isinstance(error, MemoryError) or said


def as_user_error(error: Exception) -> UserError | None:
    """The one line that a command shows for an error, None if it is a fault of the code and keeps its traceback."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _ERRORS_OF_THE_DISK and error.filename is not None:
        name = str(error.filename)
        return UserError(f"{name if len(name) < 200 else name[:197] + '...'}: {error.strerror}")
    if is_out_of_memory(error):
        reason = str(error).strip().partition("\n")[0]
        return UserError(f"out of memory{f' ({reason})' if reason else ''}: {_LESS_MEMORY}")
    return None
