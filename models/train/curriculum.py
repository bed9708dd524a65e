"""Curriculum over the recursion's depth (CGAR, arXiv 2511.08653), from shallow to full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from models.recursive import RecursiveModel

STAGES = (0.3, 0.6)  # fractions of all updates at which another third of the depth is added


@dataclass(frozen=True)
class DepthCurriculum:
    """Cycles of each update, a pure function of its number: with 3 and 6 cycles 1/2, then 2/4, then 3/6."""

    total_steps: int
    H_cycles: int
    L_cycles: int

    def cycles(self, step: int) -> tuple[int, int]:
        """Return (H_cycles, L_cycles) of update `step` (from 1): one to three thirds, rounded up, at least 1 and 2."""
        thirds = 1 + sum(step >= share * self.total_steps for share in STAGES)
        low = max(2, -(-self.L_cycles * thirds // 3))
        return -(-self.H_cycles * thirds // 3), min(low, self.L_cycles)

    @contextmanager
    def applied(self, inner: RecursiveModel, step: int) -> Iterator[None]:
        """Context manager that sets the depth of update `step`; compiled networks stay valid."""
        inner.H_cycles, inner.L_cycles = self.cycles(step)
        try:
            yield
        finally:
            inner.H_cycles, inner.L_cycles = self.H_cycles, self.L_cycles
