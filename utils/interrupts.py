"""Ctrl-C and SIGTERM in a command: one line, exit code 130 or 143, without waiting for threads or workers.

Scripts import this first, so that it is active from their first statement on; earlier signals, during the 50 ms of
Python's start, are handled by Python. This module imports only modules that Python has loaded already: `_signal` is the
built-in part of `signal`, which itself imports many others.
"""

from __future__ import annotations

import _signal as signal
import os
import sys
import time

# A shell reports 128 + N for a process that signal N ended.
SIGNAL_EXIT_BASE = 128
# A launcher repeats a Ctrl-C that its workers have already received; only a later one means "exit immediately".
REPEAT_SECONDS = 2.0

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_HAS_MASKS = hasattr(signal, "pthread_sigmask")
_interrupted_at: float | None = None


class Interrupted(KeyboardInterrupt):
    """Raised for SIGINT or SIGTERM, so that `with` blocks clean up."""

    def __init__(self, number: int):
        super().__init__(_WORDS[number])
        self.number = number


def handle_interrupts() -> None:
    """Install handlers that end the process with one line, until `interruptible`; for the first lines of a script.

    Signals that are ignored (`nohup`, background jobs) or handled already are left unchanged.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == default:
            signal.signal(number, _exit_at_once)


def interruptible() -> None:
    """Make the first signal from now on raise `Interrupted`, if `handle_interrupts` was called."""
    for number in _WORDS:
        if signal.getsignal(number) is _exit_at_once:
            signal.signal(number, _raise)


def end_interrupted(error: KeyboardInterrupt) -> None:
    """Print one line and end the process; in our scripts without waiting for threads and worker processes."""
    number = getattr(error, "number", signal.SIGINT)
    if _interrupted_at is None:  # not one of our scripts
        print(_WORDS[number], file=sys.stderr)
        sys.exit(SIGNAL_EXIT_BASE + number)
    sys.stdout.flush()
    _exit_at_once(number, None)


class signals_held_back:
    """Context manager that delays SIGINT and SIGTERM until its end (not on Windows).

    Processes started within the block never receive them.
    """

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WORDS) if _HAS_MASKS else None

    def __exit__(self, *exception) -> None:
        if _HAS_MASKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _exit_at_once(number: int, frame) -> None:
    if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
        os.write(2, f"{_WORDS[number]}\n".encode())
    os._exit(SIGNAL_EXIT_BASE + number)


def _raise(number: int, frame) -> None:
    global _interrupted_at
    if _interrupted_at is None:
        _interrupted_at = time.monotonic()
        raise Interrupted(number)
    if time.monotonic() - _interrupted_at >= REPEAT_SECONDS:  # the clean-up hangs
        _exit_at_once(number, frame)
