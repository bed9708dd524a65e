"""Progress of a long loop: a bar on a terminal, else (nohup, Slurm, a pipe) a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

FIRST_LINE_SECONDS = 5.0
LINE_SECONDS = 30.0


class Progress:
    """Progress of `total` units, on rank 0 only.

    Without a terminal it prints a line after `FIRST_LINE_SECONDS` and then at most one every `LINE_SECONDS` over all
    instances, because a training and its evaluations write to the same log. `total` may be set later.
    """

    _last_line_at: float | None = None  # of the process

    def __init__(
        self,
        name: str,
        unit: str,
        world,
        *,
        total: int | None = None,
        initial: int = 0,
        leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=name,
            unit=unit,
            leave=leave,
            disable=not (world.is_main and is_terminal),
        )
        self._says_lines = world.is_main and not is_terminal
        self._name, self._unit, self._print, self._clock = name, unit, world.print, clock
        self._total, self._done, self._figures = total, initial, ""
        self._due_at = clock() + FIRST_LINE_SECONDS
        # Time and count at the first update, from which the remaining time is estimated: compiling and starting workers
        # come before it.
        self._began: tuple[float, int] | None = None

    @property
    def total(self) -> int | None:
        return self._total

    @total.setter
    def total(self, total: int) -> None:
        self._total = self._bar.total = total

    def update(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self._bar.update(count)
        self._done += count
        if not self._says_lines:
            return
        now = self._clock()
        if self._began is None:
            self._began = now, self._done
        last = Progress._last_line_at
        if now >= self._due_at and (last is None or now - last >= LINE_SECONDS):
            Progress._last_line_at = now
            self._print(self._line(now))

    def show(self, figures: str) -> None:
        """Set the text that is shown after the count, such as the loss."""
        self._figures = figures
        self._bar.set_postfix_str(figures, refresh=False)

    def close(self) -> None:
        self._bar.close()

    def _line(self, now: float) -> str:
        of_total = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._name}: {self._unit} {self._done:,}{of_total}"]
        if self._figures:
            parts.append(self._figures)
        seconds, count = now - self._began[0], self._done - self._began[1]
        if self._total is not None and count > 0:
            left = tqdm.format_interval(max(0, self._total - self._done) * seconds / count)
            parts.append(f"{left} left")
        return ", ".join(parts)
