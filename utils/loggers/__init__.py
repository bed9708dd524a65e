"""Loggers of a run: always `metrics.jsonl` and the console, others by `logger=`; only rank 0 logs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import LoggedRun, Logger
from utils.loggers.console import ConsoleLogger
from utils.loggers.json_lines import METRICS_FILE, JsonLinesLogger
from utils.loggers.tensorboard import TensorBoardLogger
from utils.loggers.wandb import WandbLogger
from utils.wandb_names import from_environment

__all__ = ["LOGGERS", "METRICS_FILE", "Loggers", "check_loggers", "make_loggers"]

# Choices of `logger=`. To add a logger, write a module in this package and add a line here.
LOGGERS: dict[str, type[Logger]] = {
    "wandb": WandbLogger,
    "tensorboard": TensorBoardLogger,
}


class Loggers:
    """Several loggers as one. `run_id` identifies the run; it and `num_lines` belong in the checkpoint."""

    def __init__(
        self,
        loggers: Sequence[Logger],
        run_id: str | None = None,
        print_line: Callable[[str], None] = print,
    ):
        self.loggers, self.run_id, self._print = loggers, run_id, print_line

    @property
    def num_lines(self) -> int:
        """Lines in the metrics file, 0 on ranks without loggers."""
        return sum(logger.num_lines for logger in self.loggers if isinstance(logger, JsonLinesLogger))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log(metrics, step)

    def draw(self, make_pictures: Callable[[], Mapping[str, bytes]], step: int) -> None:
        """Record pictures, name -> PNG; they are drawn once, and only if a logger records them."""
        takers = [logger for logger in self.loggers if logger.takes_pictures]
        if not takers:
            return
        try:
            pictures = make_pictures()
            for logger in takers:
                logger.draw(pictures, step)
        except Exception as error:  # a failure to draw must not end the run
            self._print(f"no pictures of step {step} ({type(error).__name__}: {error})")

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def check_loggers(names: Collection[str], *, sweep: bool = False) -> None:
    """Raise `UserError` if one of the loggers cannot work here, without writing anything. `sweep`: for several runs."""
    for name in names:
        LOGGERS[name].check(sweep=sweep)


def make_loggers(
    world,
    directory: Path,
    *,
    names: Collection[str],
    project: str,
    run_name: str,
    config: Mapping[str, Any],
    step: int = 0,
    num_lines: int = 0,
    run_id: str | None = None,
    bar=None,
) -> Loggers:
    """Start all loggers of this rank: `names` (keys of `LOGGERS`), the metrics file and the console.

    `step`, `num_lines` and `run_id` come from the checkpoint that a run resumes from; `bar` is the `Progress` that
    shows training metrics.
    """
    if not world.is_main:
        return Loggers([])
    # Not from a seeded generator, because runs of equal seed need different ids.
    run_id = from_environment("RUN_ID") or run_id or secrets.token_hex(4)
    lines = JsonLinesLogger(Path(directory, METRICS_FILE), num_lines)
    if lines.num_lines < num_lines:
        world.print(
            f"warning: {lines.path} holds only {lines.num_lines} of the {num_lines} lines it had when the state was "
            f"saved; the other metrics are lost"
        )
    run = LoggedRun(Path(directory), project, run_name, run_id, config, step, world.print)
    started = filter(None, (LOGGERS[name].start(run) for name in names))
    return Loggers([lines, *started, ConsoleLogger(world.print, bar)], run_id, world.print)
