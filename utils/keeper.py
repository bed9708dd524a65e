"""When a run is saved, what goes into a checkpoint beside the weights, and when it stops before its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from utils.cadence import BestMetric, Cadence
from utils.checkpoint import Best, Checkpointer
from utils.device import random_state
from utils.errors import UserError


class Resumable(Protocol):
    """A training state as the keeper sees it."""

    step: int

    def weights(self) -> dict[str, Tensor]: ...
    def shared(self) -> dict[str, Any]: ...
    def of_rank(self) -> dict[str, Any]: ...


class Stopped(Exception):
    """A signal asked the run to stop; everything is saved."""


class Keeper:
    """Saves a training state when it is due; all methods are for all ranks together.

    `facts` returns what describes the run (config, versions, W&B run id, ...) at the moment of saving.
    """

    def __init__(
        self,
        state: Resumable,
        checkpointer: Checkpointer,
        cadence: Cadence,
        best: BestMetric | None,
        facts: Callable[[], dict[str, Any]],
        *,
        save_every_eval: bool,
    ):
        self.state, self.checkpointer, self.cadence, self.best = state, checkpointer, cadence, best
        self.facts, self.save_every_eval = facts, save_every_eval
        self.is_saved = False
        self._said_unmeasured = False

    @property
    def stopped_early(self) -> bool:
        return self.best is not None and self.best.out_of_patience

    def save(self, *, best: Best | None = None) -> None:
        """Save weights and full state, in the background."""
        shared = self.state.shared() | self.facts()
        shared["best"] = None if self.best is None else self.best.state_dict()
        per_rank = self.state.of_rank() | {"random": random_state(self.checkpointer.world.device)}
        self.checkpointer.save(
            self.state.step, weights=self.state.weights(), shared=shared, per_rank=per_rank, best=best
        )
        self.cadence.saved(self.state.step)
        self.is_saved = True

    def after_step(self) -> None:
        """Save if it is due. Raises Stopped, with everything saved, if a signal asked for it."""
        self.is_saved = False
        due = self.cadence.after_step(self.state.step)
        if due.save:
            self.save()
        if due.stop:
            raise Stopped

    def poll(self) -> None:
        """Raises Stopped if a signal asked for it."""
        if self.cadence.stop_requested():
            raise Stopped

    @contextmanager
    def guarding_evaluation(self) -> Iterator[None]:
        """Whatever ends the evaluation inside, the training behind it is saved, to be evaluated on resuming."""
        try:
            yield
        except Exception:
            if not self.is_saved:
                self.save()
            raise

    def after_iteration(self, results: Mapping[str, float] | None) -> None:
        """Take an evaluation's results (None if none was due) and save if it is due."""
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
                self.save()  # a wrong name of a metric must not cost the training behind it
                raise
        if self.save_every_eval or best is not None:
            self.save(best=best)

    def _say_unmeasured(self, best: BestMetric) -> None:
        if not self._said_unmeasured:
            patience = (
                "" if best.patience is None else f" and early_stop_patience={best.patience} ends no run"
            )
            self.checkpointer.world.print(
                f"best_metric={best.name} has no value, because the answers to all test examples are unknown: no best "
                f"checkpoint is kept{patience}"
            )
        self._said_unmeasured = True

    def finish(self) -> None:
        """Save what is not saved yet and wait until it is on disk."""
        if not self.is_saved:
            self.save()
        self.checkpointer.close()
