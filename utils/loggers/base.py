"""Base class of loggers, and the run that they log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class LoggedRun:
    """The run whose metrics are logged."""

    directory: Path
    """The run's folder; it exists."""
    project: str
    name: str
    id: str
    """Unchanged when the run resumes."""
    config: Mapping[str, Any]
    step: int
    """Last update before this start: 0, or the step of the state that the run resumes from."""
    print_line: Callable[[str], None]


class Logger:
    """Receives metrics and pictures; only rank 0 has loggers."""

    takes_pictures: ClassVar[bool] = False

    @classmethod
    def check(cls, *, sweep: bool = False) -> None:
        """Raise UserError if this logger cannot work here, without writing anything; `sweep`: for several runs."""

    @classmethod
    def start(cls, run: LoggedRun) -> Logger | None:
        """Start the logger of a run; None if the environment disables it."""
        raise NotImplementedError

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics, by their full names (`train/...`, `test/...`), after update `step`."""

    def draw(self, pictures: Mapping[str, bytes], step: int) -> None:
        """Record pictures, name -> PNG; called only if `takes_pictures`."""

    def close(self) -> None:
        """Write out everything; the logger is not used afterwards."""
