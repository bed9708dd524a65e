"""Save a run by its schedule, and collect the contents of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from utils.checkpoint import Best, Checkpointer
from utils.checkpoint_schedule import BestMetric, CheckpointSchedule
from utils.device import random_state
from utils.errors import UserError


class Resumable(Protocol):
    """The interface of a training state."""

    step: int

    def weights(self) -> dict[str, Tensor]: ...
    def shared_state(self) -> dict[str, Any]: ...
    def rank_state(self) -> dict[str, Any]: ...


class Stopped(Exception):
    """Raised if a signal asked the run to stop; everything is saved."""


class CheckpointManager:
    """Saves a training state when it is due; all ranks call every method.

    `facts` is called at each save and returns what describes the run (config, versions, W&B run id, ...).
    """

    def __init__(
        self,
        state: Resumable,
        checkpointer: Checkpointer,
        schedule: CheckpointSchedule,
        best: BestMetric | None,
        facts: Callable[[], dict[str, Any]],
        *,
        save_every_eval: bool,
    ):
        self.state, self.checkpointer, self.schedule, self.best = state, checkpointer, schedule, best
        self.facts, self.save_every_eval = facts, save_every_eval
        self.is_saved = False
        self.out_of_time = False
        self._said_unmeasured = False

    @property
    def stopped_early(self) -> bool:
        return self.best is not None and self.best.out_of_patience

    @property
    def ended(self) -> bool:
        """True if the training ends before its last iteration."""
        return self.stopped_early or self.out_of_time

    def save(self, *, best: Best | None = None) -> None:
        """Save weights and full state, in the background."""
        shared = self.state.shared_state() | self.facts()
        shared["best"] = None if self.best is None else self.best.state_dict()
        per_rank = self.state.rank_state() | {"random": random_state(self.checkpointer.world.device)}
        self.checkpointer.save(
            self.state.step, weights=self.state.weights(), shared=shared, per_rank=per_rank, best=best
        )
        self.schedule.saved(self.state.step)
        self.is_saved = True

    def after_step(self) -> None:
        """Save if due, and set `out_of_time`. Raises Stopped, with everything saved, if a signal was received."""
        self.is_saved = False
        decision = self.schedule.after_step(self.state.step)
        if decision.save:
            self.save()
        if decision.stop:
            raise Stopped
        self.out_of_time = decision.out_of_time

    def poll(self) -> None:
        """Raise Stopped if a signal was received."""
        if self.schedule.stop_requested():
            raise Stopped

    @contextmanager
    def saving_on_error(self) -> Iterator[None]:
        """Context manager for an evaluation: if it fails, save the training so far; a resumed run repeats it."""
        try:
            yield
        except Exception:
            if not self.is_saved:
                self.save()
            raise

    def after_iteration(self, results: Mapping[str, float] | None) -> None:
        """Record an evaluation's results (None: no evaluation), and save if configured or if they are the best."""
        self.is_saved = False
        if results is None:
            return
        best = None
        if self.best is not None and not self.best.is_measured(results):
            self._say_unmeasured(self.best)
        elif self.best is not None:
            try:
                if self.best.update(results):
                    best = Best(self.best.name, self.best.value)
            except UserError:
                self.save()  # a wrong metric name must not lose the training so far
                raise
        if self.save_every_eval or best is not None:
            self.save(best=best)
        self.out_of_time = self.schedule.is_out_of_time()

    def _say_unmeasured(self, best: BestMetric) -> None:
        if not self._said_unmeasured:
            patience = (
                "" if best.patience is None else f" and early_stop_patience={best.patience} has no effect"
            )
            self.checkpointer.world.print(
                f"best_metric={best.name} has no value, because the answers to all test examples are unknown: no best "
                f"checkpoint is kept{patience}"
            )
        self._said_unmeasured = True

    def finish(self) -> None:
        """Save unless the last step is saved already, and wait until everything is on disk."""
        if not self.is_saved:
            self.save()
        self.checkpointer.close()
