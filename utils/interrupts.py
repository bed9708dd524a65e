"""Ctrl-C and SIGTERM in a command: one line, exit code 130 or 143, and nobody waits for threads or workers.

Scripts import this first, so that it takes effect from their first statement on; a signal before that, while Python
itself starts (some 50 ms), is Python's. Imported is only what Python has loaded by then: `_signal` is the built-in
half of `signal`, whose other half imports much.
"""

from __future__ import annotations

import _signal as signal
import os
import sys
import time

# As a shell reports a process that a signal ended.
SIGNAL_EXIT_BASE = 128
# A launcher repeats the Ctrl-C that its workers have already had; only a later one means "at once".
REPEAT_SECONDS = 2.0

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_HAS_MASKS = hasattr(signal, "pthread_sigmask")
_interrupted_at: float | None = None


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM, raised so that `with` blocks clean up."""

    def __init__(self, number: int):
        super().__init__(_WORDS[number])
        self.number = number


def handle_interrupts() -> None:
    """For the first lines of a script: until `interruptible`, a signal ends the process at once with one line.

    Signals that the caller ignores (`nohup`, background jobs) or handles stay as they are.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == default:
            signal.signal(number, _exit_at_once)


def interruptible() -> None:
    """From now on the first signal raises `Interrupted`, if `handle_interrupts` was called."""
    for number in _WORDS:
        if signal.getsignal(number) is _exit_at_once:
            signal.signal(number, _raise)


def end_interrupted(error: KeyboardInterrupt) -> None:
    """Print one line and end the process, in a script without waiting for its threads and worker processes."""
    number = getattr(error, "number", signal.SIGINT)
    if _interrupted_at is None:  # not one of our scripts
        print(_WORDS[number], file=sys.stderr)
        sys.exit(SIGNAL_EXIT_BASE + number)
    sys.stdout.flush()
    _exit_at_once(number, None)


class signals_held_back:
    """Context manager: SIGINT and SIGTERM that arrive within the block take effect after it (not on Windows).

    Processes started within the block never get them.
    """

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WORDS) if _HAS_MASKS else None

    def __exit__(self, *exception) -> None:
        if _HAS_MASKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _exit_at_once(number: int, frame) -> None:
    if os.environ.get("RANK", "0") == "0":  # one of many processes speaks
        os.write(2, f"{_WORDS[number]}\n".encode())
    os._exit(SIGNAL_EXIT_BASE + number)


def _raise(number: int, frame) -> None:
    global _interrupted_at
    if _interrupted_at is None:
        _interrupted_at = time.monotonic()
        raise Interrupted(number)
    if time.monotonic() - _interrupted_at >= REPEAT_SECONDS:  # the clean-up hangs
        _exit_at_once(number, frame)
