"""Weights & Biases logger: a new run or the one that a checkpoint continues, online or offline."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from utils.errors import UserError, missing_package
from utils.loggers.base import LoggedRun, Logger
from utils.wandb_names import from_environment

# Seconds to wait for the W&B server before logging offline.
WANDB_INIT_SECONDS = 30


class WandbLogger(Logger):
    """A W&B run, continued if the server knows its id; its files are in the run's folder unless WANDB_DIR is set."""

    takes_pictures = True

    def __init__(self, run: Any):
        self._run = run

    @classmethod
    def check(cls, *, sweep: bool = False) -> None:
        check_wandb()
        if sweep:
            check_wandb_sweep()

    @classmethod
    def start(cls, run: LoggedRun) -> WandbLogger | None:
        started = start_wandb(run)
        return None if started is None else cls(started)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def draw(self, pictures: Mapping[str, bytes], step: int) -> None:
        import wandb
        from PIL import Image

        images = {name: wandb.Image(Image.open(io.BytesIO(png))) for name, png in pictures.items()}
        self._run.log(images, step=step)

    def close(self) -> None:
        self._run.finish()


def wandb_disabled() -> bool:
    """True if the environment disables W&B (WANDB_DISABLED=true, WANDB_MODE=disabled)."""
    said = os.environ.get("WANDB_DISABLED", "").strip().lower()
    return (
        said in ("true", "1", "yes", "on") or os.environ.get("WANDB_MODE", "").strip().lower() == "disabled"
    )


def check_wandb() -> None:
    """Raise `UserError` for an environment variable that W&B rejects, without writing anything."""
    if wandb_disabled() or (wandb := _wandb(print_line=None)) is None:
        return
    for name, value in os.environ.items():
        if not name.startswith("WANDB_"):
            continue
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except ValidationError as error:
            raise UserError(f"{name}={value}: is rejected by W&B ({error.errors()[0]['msg']})") from error
        except wandb.UsageError as error:
            raise UserError(f"{name}={value}: is rejected by W&B ({error})") from error


def check_wandb_sweep() -> None:
    """Raise `UserError` if the environment gives every run of a sweep the same id."""
    if not wandb_disabled() and (run_id := from_environment("RUN_ID")):
        raise UserError(
            f"WANDB_RUN_ID={run_id}: --multirun trains several runs, which cannot share an id: unset WANDB_RUN_ID"
        )


def _wandb(print_line: Callable[[str], None] | None) -> ModuleType | None:
    """Import wandb; return None, with a notice, if it is not installed."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        if print_line is not None:
            print_line(
                f"W&B: {missing}; metrics are logged to metrics.jsonl only (logger=null turns this notice off)"
            )
        return None
    return wandb


def start_wandb(run: LoggedRun):
    """Start a W&B run: online if logged in and the server answers, else offline with a notice.

    Returns None if W&B is disabled or, with a notice, if it is not installed: `logger=wandb` is the default.
    """
    if wandb_disabled() or (wandb := _wandb(run.print_line)) is None:
        return None
    # The run's folder by default, to keep W&B's files out of the working directory.
    directory = from_environment("DIR") or str(run.directory)

    def init(mode: str):
        settings = wandb.Settings(
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_INIT_SECONDS))
        )
        return wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume=from_environment("RESUME") or "allow",  # continue a run if the server knows its id
            config=dict(run.config),
            dir=directory,
            mode=mode,
            settings=settings,
        )

    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if mode in ("offline", "dryrun"):
        return init("offline")
    try:
        # Without `prompt=False` W&B would ask for a key on the terminal.
        if wandb.login(prompt=False, verify=False):
            return init("shared" if mode == "shared" else "online")
        reason = "not logged in (`wandb login` or WANDB_API_KEY)"
    except wandb.Error as error:
        reason = str(error).strip().partition("\n")[0]
        wandb.teardown()  # else its service would keep the run's id reserved and reject the offline run
    run.print_line(f"W&B: {reason}; logging offline below {directory}, `wandb sync` uploads it later")
    return init("offline")
