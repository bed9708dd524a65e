"""Keep a training run alive when the program that reads its output ends (`pretrain.py | head`, a killed `tee`)."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, TextIO

from utils.errors import is_unread


class LastingOutput:
    """Context manager in whose body `sys.stdout` never raises BrokenPipeError.

    When the reader of the pipe has ended, `is_lost` is True, and this and all further output goes to stderr, or nowhere
    if that has lost its reader too.
    """

    def __init__(self) -> None:
        self.is_lost = False

    def __enter__(self) -> LastingOutput:
        self._stream = sys.stdout
        sys.stdout = _Guarded(self._stream, self)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(sys.stdout, _Guarded):
            sys.stdout = self._stream

    def replace_pipe(self) -> None:
        """Connect the descriptor of stdout to stderr, or to nothing."""
        self.is_lost = True
        target = os.open(os.devnull, os.O_WRONLY) if is_unread(sys.stderr) else sys.stderr.fileno()
        os.dup2(target, self._stream.fileno())


class _Guarded:
    """A text stream whose `write` and `flush` survive the end of the reader."""

    def __init__(self, stream: TextIO, owner: LastingOutput):
        self._stream, self._owner = stream, owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            if not is_unread(self._stream):
                raise
            self._owner.replace_pipe()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            if not is_unread(self._stream):
                raise
            self._owner.replace_pipe()
            self._stream.flush()  # what the buffer still holds
