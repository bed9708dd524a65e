"""One training of `pretrain.py`: alone, or a job of a `--multirun` sweep that returns its objective to the sweeper.

Every job of a sweep appends a line to `sweep.jsonl` in the folder of the sweep, so that a failed or stopped job is not
mistaken for one with a low score.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from config.schema import PretrainConfig
from utils.errors import UserError, as_user_error, report_user_errors
from utils.outcome import Ending, RunOutcome, lower_is_better

RECORD_FILE = "sweep.jsonl"
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@report_user_errors
def run_alone(train: Callable[[], RunOutcome]) -> None:
    """Train, and exit with a nonzero code if a signal stopped the run."""
    if exit_code := train().exit_code:
        sys.exit(exit_code)


def run_in_sweep(train: Callable[[], RunOutcome]) -> float | None:
    """Train one job of a sweep, record its outcome, and return the best value of its `best_metric`.

    A job that was stopped by `early_stop_patience` or `max_minutes` has a value too. A job that raises has failed; the
    sweeper decides what follows. A signal ends the whole sweep.
    """
    try:
        outcome = train()
        if _optimises() and outcome.value is None and not outcome.exit_code:
            raise UserError(f"{outcome.folder}: best_metric={outcome.metric} was never measured")
    except Exception as error:
        known = as_user_error(error) or error
        message = str(known) or type(known).__name__
        _record("failed", error=message)
        print(f"error: job {_number()} of the sweep: {message}", file=sys.stderr)
        if _num_processes() > 1:
            sys.exit(2)  # the other processes are still in this job
        raise known from None
    facts = asdict(outcome)
    _record(facts.pop("ended"), **{key: facts[key] for key in ("folder", "step", "metric", "value")})
    if outcome.exit_code:
        sys.exit(outcome.exit_code)
    return outcome.value


def check_objective(config: PretrainConfig) -> None:
    """Raise UserError if the sweeper optimises what jobs return and the config has no objective for it."""
    if not _optimises():
        return
    choices: Any = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    name = f"hydra/sweeper={choices['hydra/sweeper']}"
    if config.best_metric is None:
        raise UserError(f"best_metric=null: {name} needs an objective; name a metric, or use auto")
    if _num_processes() > 1:
        raise UserError(
            f"{name}: each of the {_num_processes()} processes would choose its own trials; train with one process, "
            "and use a launcher for several jobs at a time"
        )
    right = "minimize" if lower_is_better(config.best_metric) else "maximize"  # `auto` is a share
    if (found := _directions()) not in ([], [right]):
        raise UserError(
            f"hydra.sweeper.direction={','.join(found)}: a run has one objective, best_metric={config.best_metric}, "
            f"whose {'lowest' if right == 'minimize' else 'highest'} value is the best: use "
            f"hydra.sweeper.direction={right}"
        )


def _optimises() -> bool:
    """True if the sweeper uses what jobs return; Hydra's own one does not."""
    return HydraConfig.get().sweeper["_target_"] != _BASIC_SWEEPER


def _directions() -> list[str]:
    """Return the directions that a sweeper of Optuna optimises its objectives in; [] for other sweepers."""
    found = HydraConfig.get().sweeper.get("direction", [])
    found = list(found) if OmegaConf.is_list(found) else [found]
    return [getattr(each, "name", str(each)) for each in found]


def _record(ended: Ending, **facts: Any) -> None:
    """Append the outcome of this job to the record of the sweep; only the first of several processes does."""
    if os.environ.get("RANK", "0") != "0":
        return
    job = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(job.overrides.task, resolve=False)
    line = {"job": _number(), "overrides": [text.lstrip("+") for text in overrides], "ended": ended} | facts
    path = Path(job.runtime.cwd, job.sweep.dir, RECORD_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write in append mode, because jobs may run at the same time.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def _number() -> int:
    return int(HydraConfig.get().job.num)


def _num_processes() -> int:
    """Return the number of processes that a launcher such as torchrun has started."""
    return int(os.environ.get("WORLD_SIZE") or 1)
