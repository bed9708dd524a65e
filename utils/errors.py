"""The exception for mistakes in input or files, and how commands show it."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from utils.interrupts import SIGNAL_EXIT_BASE, end_interrupted, interruptible


class UserError(ValueError):
    """A mistake in the user's input or a file; the message names it, what is allowed and what to do."""


def report_user_errors(main: Callable) -> Callable:
    """Decorate a command's `main`: user errors and interrupts print one line instead of a traceback.

    The exit code is 2 for a `UserError` and for running out of memory, 130 for Ctrl-C, 143 for SIGTERM, and 141 if the
    reader of a pipe has ended, as in `evaluate.py | head`. Characters that the terminal's encoding lacks are printed as
    escapes.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        interruptible()
        escape_unprintable()
        try:
            result = main(*args, **kwargs)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as error:
            end_interrupted(error)
        except BrokenPipeError:
            if not is_unread(sys.stdout):
                raise
            end_unread()
        except Exception as error:
            if (known := as_user_error(error)) is None:
                raise
            exit_with_error(known)

    return wrapper


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes from now on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_unread(stream: TextIO) -> bool:
    """True if a stream is a pipe whose reader has ended."""
    if not hasattr(select, "poll"):  # Windows
        return False
    states = select.poll()
    states.register(stream, 0)  # without events to wait for, only a missing reader is reported
    return bool(states.poll(0))


def end_unread() -> NoReturn:
    """End the command with one line and the exit code of SIGPIPE; what is left to print is discarded."""
    print("ended, because nothing reads the output any more", file=sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(SIGNAL_EXIT_BASE + 13)


def exit_with_error(error: UserError) -> NoReturn:
    """End the command with the one line of an error and exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


# Errors of files that are not faults of the code: permissions, a full disk, a name that is too long.
_DISK_ERRORS = {
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
# Packages of requirements.txt that requirements-min.txt leaves out, by the names under which they are imported.
OPTIONAL_PACKAGES = {
    "wandb": "wandb",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "huggingface_hub": "huggingface_hub",
}
_LESS_MEMORY = (
    "use a smaller batch (global_batch_size, or grad_accum_steps in training) or a smaller model (arch.*)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for `MemoryError` and for torch's errors when a device or the machine is out of memory."""
    signs = ("out of memory", "allocate memory", "not enough memory")
    said = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    return isinstance(error, MemoryError) or said


def missing_package(error: ImportError) -> str | None:
    """Say that an optional package is not installed and how to install it; None if the error has another reason."""
    package = OPTIONAL_PACKAGES.get(error.name or "")
    if not isinstance(error, ModuleNotFoundError) or package is None:
        return None
    return f"the package {package} is not installed: pip install {package}"


def as_user_error(error: Exception) -> UserError | None:
    """Convert an error to the line that a command shows; None for a fault of the code, which keeps its traceback."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename is not None:
        name = str(error.filename)
        return UserError(f"{name if len(name) < 200 else name[:197] + '...'}: {error.strerror}")
    if isinstance(error, ImportError) and (missing := missing_package(error)):
        return UserError(missing)
    if is_out_of_memory(error):
        reason = str(error).strip().partition("\n")[0]
        return UserError(f"out of memory{f' ({reason})' if reason else ''}: {_LESS_MEMORY}")
    return None
