"""How a training ended, and its objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ending = Literal["finished", "stopped early", "out of time", "stopped by a signal", "failed"]


@dataclass(frozen=True)
class RunOutcome:
    """How a training ended, and the value by which a sweep compares it with others."""

    ended: Ending
    folder: str
    step: int
    metric: str | None = None
    """The run's `best_metric`; None: no best is kept."""
    value: float | None = None
    """Its best value; None if it was never measured."""
    exit_code: int = 0
    """Nonzero if a signal stopped the run."""


def lower_is_better(metric: str) -> bool:
    """True for a loss; of any other metric the highest value is the best."""
    return metric.endswith("loss")
