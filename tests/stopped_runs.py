"""Training runs that are stopped or killed at a chosen moment, for tests."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from training_runs import metrics, train

import pretrain

STOPPED = 128 + signal.SIGTERM
# Of runs on `identified`: 12 groups of two puzzles, 2 epochs per iteration, batches of 8: few steps, which differ
# between iterations.
SETTINGS = {"ema": True, "checkpoint_interval_steps": None}


def call_at(monkeypatch, name: str, count: int, action: Callable[[], None]) -> None:
    """Call `action` right before `pretrain` calls its function `name` for the count-th time."""
    function, calls = getattr(pretrain, name), []

    def counting(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            action()
        return function(*args, **kwargs)

    monkeypatch.setattr(pretrain, name, counting)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


class Killed(BaseException):
    """End the run immediately like SIGKILL, because no handler catches it."""


def kill() -> None:
    raise Killed


def stopped_run(identified, folder, monkeypatch, step=4, **settings) -> Path:
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", step, terminate)
        assert train(identified, folder, **SETTINGS | settings) == STOPPED
    return folder


def evaluated_steps(folder: Path) -> list[int]:
    return [line["step"] for line in metrics(folder) if "test/accuracy" in line]


def states(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("state_step_*")}


def num_steps(folder: Path) -> int:
    return metrics(folder)[-1]["step"]
