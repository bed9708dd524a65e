"""Decide when to save and stop, and which evaluation was the best."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from utils.distributed import World
from utils.errors import UserError
from utils.interrupts import REPEAT_SECONDS
from utils.lasting_output import LastingOutput
from utils.outcome import lower_is_better

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
# In the environment of every worker that torchrun starts.
_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


class StopSignals:
    """Context manager that records SIGTERM, SIGINT, SIGUSR1 and SIGHUP in `received` instead of ending the process.

    SIGHUP stays ignored under `nohup`. A second Ctrl-C, at least `REPEAT_SECONDS` after the first signal, raises
    `KeyboardInterrupt`. A worker of torchrun whose launcher has ended, for instance by a signal that torchrun does not
    forward, is asked to stop too; otherwise it would keep running with nobody to stop or restart it. So is a process
    whose output is a pipe that nobody reads any more (SIGPIPE), which in this context raises no BrokenPipeError.
    """

    def __init__(self):
        self._signal: signal.Signals | None = None
        self._received_at = 0.0
        self._previous: dict = {}
        self._launcher = os.getppid() if _STARTED_BY_TORCHRUN in os.environ else None
        self._output = LastingOutput()

    @property
    def received(self) -> signal.Signals | None:
        """The first signal, SIGPIPE if nobody reads the output, or SIGHUP if torchrun has ended; None: continue."""
        if self._signal is None and self._output.is_lost:
            return signal.SIGPIPE
        return signal.SIGHUP if self._signal is None and self._has_lost_launcher else self._signal

    @property
    def cause(self) -> str:
        """What asked the process to stop, for a message."""
        if self._signal is not None:
            return self._signal.name
        return (
            "the end of the program that read the output" if self._output.is_lost else "the end of torchrun"
        )

    @property
    def _has_lost_launcher(self) -> bool:
        # The system gives an orphan another parent; on Windows the id stays the same.
        return self._launcher is not None and os.getppid() != self._launcher

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in STOP_SIGNALS:
                if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        self._output.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._output.__exit__(*error)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self._signal is None:
            self._signal, self._received_at = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at >= REPEAT_SECONDS:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Decision:
    """What to do after a step; `stop` and `out_of_time` imply `save`."""

    save: bool
    stop: bool
    out_of_time: bool = False


class CheckpointSchedule:
    """Decides after each step whether to save or stop, the same on every rank.

    With several ranks, time and signals take effect one step later than with one: see `World.any_flags`.
    """

    def __init__(
        self,
        world: World,
        signals: StopSignals,
        *,
        interval_steps: int | None = None,
        interval_minutes: float | None = None,
        max_minutes: float | None = None,
    ):
        self._world, self._signals = world, signals
        self._interval_steps, self._interval_minutes = interval_steps, interval_minutes
        self._started_at, self._max_minutes = time.monotonic(), max_minutes
        self._saved_at, self._saved_step = self._started_at, None

    def after_step(self, step: int) -> Decision:
        """Decide after a step; all ranks must call it once per step."""
        minutes = (time.monotonic() - self._saved_at) / 60
        # Rank 0's clock decides.
        late = (
            self._world.is_main and self._interval_minutes is not None and minutes >= self._interval_minutes
        )
        stop, late, out_of_time = self._world.any_flags(self._is_signalled, late, self._is_out_of_time)
        # With several ranks this may be the vote from just before the last save.
        late = late and (self._saved_step is None or step > self._saved_step + 1)
        return Decision(
            save=stop
            or late
            or out_of_time
            or (self._interval_steps is not None and step % self._interval_steps == 0),
            stop=stop,
            out_of_time=out_of_time,
        )

    def stop_requested(self) -> bool:
        """True if a rank was asked to stop, for checks during an evaluation; all ranks must call it equally often."""
        return self._world.any_flags(self._is_signalled, False, False)[0]

    def is_out_of_time(self) -> bool:
        """True if `max_minutes` have passed since the start; waits for all ranks, so for use between iterations."""
        return self._max_minutes is not None and self._world.broadcast_object(self._is_out_of_time)

    @property
    def _is_signalled(self) -> bool:
        return self._signals.received is not None

    @property
    def _is_out_of_time(self) -> bool:
        minutes = (time.monotonic() - self._started_at) / 60
        return self._world.is_main and self._max_minutes is not None and minutes >= self._max_minutes

    def saved(self, step: int) -> None:
        """Restart the interval in minutes; call it whenever a full state is saved."""
        self._saved_at, self._saved_step = time.monotonic(), step


class BestMetric:
    """Tracks the best value of a metric: the lowest for a loss, else the highest.

    `patience` is the number of consecutive evaluations without improvement after which to stop; None: never.
    """

    def __init__(self, name: str, patience: int | None = None):
        self.name, self.patience = name, patience
        self.value: float | None = None
        self.evaluations_without_better = 0

    def check(self, names: Collection[str]) -> None:
        """Raise `UserError` unless the metric is one of `names`."""
        if self.name not in names:
            raise UserError(
                f"best_metric={self.name}: no such metric; this run has {', '.join(sorted(names))}"
            )

    def is_measured(self, metrics: Mapping[str, float]) -> bool:
        """True unless the metric is missing because no example had a label, so that there are no `test/*` metrics."""
        return self.name in metrics or any(name.startswith("test/") for name in metrics)

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Record an evaluation; True if it is the best so far. Raises `UserError` if the metric is missing."""
        self.check(metrics)
        better = self.best_with(metrics) != self.value
        self.value = self.best_with(metrics)
        self.evaluations_without_better = 0 if better else self.evaluations_without_better + 1
        return better

    def best_with(self, metrics: Mapping[str, float]) -> float | None:
        """Return the best value so far and of these metrics, without recording them; NaN is never the best."""
        values = [self.value, metrics.get(self.name)]
        measured = [float(value) for value in values if value is not None and value == value]
        choose = min if lower_is_better(self.name) else max
        return choose(measured) if measured else None

    @property
    def out_of_patience(self) -> bool:
        return self.patience is not None and self.evaluations_without_better >= self.patience

    def state_dict(self) -> dict:
        return {
            "name": self.name,
            "value": self.value,
            "evaluations_without_better": self.evaluations_without_better,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Restore a saved state, unless it belongs to another metric."""
        if state["name"] == self.name:
            self.value, self.evaluations_without_better = state["value"], state["evaluations_without_better"]
