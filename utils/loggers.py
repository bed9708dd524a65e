"""Where metrics go: the console, `metrics.jsonl` and Weights & Biases; only rank 0 gets loggers that do anything."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from utils.errors import UserError
from utils.files import replacing
from utils.reading import parse_json
from utils.wandb_names import from_environment

METRICS_FILE = "metrics.jsonl"
# Seconds to wait for the W&B server before the run goes on offline.
WANDB_INIT_SECONDS = 30


class Logger:
    """The interface of every logger; as it stands, the one of silent ranks."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics, by their full names, at a training step."""

    def draw(self, make_pictures: Callable[[], Mapping[str, bytes]], step: int) -> None:
        """Record the pictures (name -> PNG) of a training step; only made where somebody shows them."""

    def close(self) -> None:
        """Write out everything; the logger is not used afterwards."""


class JsonLinesLogger(Logger):
    """One JSON object a line: `step`, `time` (seconds since 1970) and the metrics; each line is written at once.

    All but the first `num_lines` lines of an earlier start are removed first: a resumed run writes them again. The
    step would not do for that: an evaluation may have been logged after the state of its step was saved. A value that
    is not finite is written as null, since JSON knows no NaN.
    """

    def __init__(self, path: Path, num_lines: int = 0):
        self.path = path
        try:
            self.num_lines = keep_lines(path, num_lines)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until close()
        except OSError as error:
            raise _cannot_write(path, error) from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        record = {"step": step, "time": round(time.time(), 3)}
        record |= {name: _finite_or_none(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self.num_lines += 1
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from error


class ConsoleLogger(Logger):
    """Training metrics beside the progress bar, all other metrics as one line above it."""

    def __init__(self, print_line: Callable[[str], None], bar=None):
        self._print, self._bar = print_line, bar

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        training = {
            name.removeprefix("train/"): v for name, v in metrics.items() if name.startswith("train/")
        }
        if training and self._bar is not None:
            shown = {short: training[name] for name, short in _BAR_METRICS.items() if name in training}
            self._bar.show(format_metrics(shown))
        if others := {name: value for name, value in metrics.items() if not name.startswith("train/")}:
            self._print(f"step {step}: {format_metrics(others)}")


class WandbLogger(Logger):
    """A W&B run, continued where `run_id` is known to the server; its files lie below `directory`."""

    def __init__(self, run, print_line: Callable[[str], None] = print):
        self._run, self._print = run, print_line

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def draw(self, make_pictures: Callable[[], Mapping[str, bytes]], step: int) -> None:
        try:
            import wandb
            from PIL import Image

            pictures = {
                name: wandb.Image(Image.open(io.BytesIO(png))) for name, png in make_pictures().items()
            }
            self._run.log(pictures, step=step)
        except Exception as error:  # whatever it is, a picture is not worth a run
            self._print(f"W&B: no pictures of step {step} ({type(error).__name__}: {error})")

    def close(self) -> None:
        self._run.finish()


class Loggers(Logger):
    """Several loggers as one. `run_id` names the W&B run; it and `num_lines` belong in the checkpoint."""

    def __init__(self, loggers: list[Logger], run_id: str | None = None):
        self.loggers, self.run_id = loggers, run_id

    @property
    def num_lines(self) -> int:
        """Lines in the metrics file, 0 on silent ranks."""
        return sum(logger.num_lines for logger in self.loggers if isinstance(logger, JsonLinesLogger))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log(metrics, step)

    def draw(self, make_pictures: Callable[[], Mapping[str, bytes]], step: int) -> None:
        for logger in self.loggers:
            logger.draw(make_pictures, step)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def make_loggers(
    world,
    directory: Path,
    *,
    project: str,
    run_name: str,
    config: Mapping[str, Any],
    num_lines: int = 0,
    run_id: str | None = None,
    bar=None,
) -> Loggers:
    """Every logger of this rank; `bar` is the `Progress` that shows training metrics.

    `num_lines` and `run_id` are those of the checkpoint a run resumes from.
    """
    if not world.is_main:
        return Loggers([])
    # Not from a seeded generator: two runs of one seed are two runs.
    run_id = from_environment("RUN_ID") or run_id or secrets.token_hex(4)
    lines = JsonLinesLogger(Path(directory, METRICS_FILE), num_lines)
    if lines.num_lines < num_lines:
        world.print(
            f"warning: {lines.path} holds only {lines.num_lines} of the {num_lines} lines it had when the state was "
            f"saved; the other metrics are lost"
        )
    loggers: list[Logger] = [lines]
    if run := start_wandb(directory, project, run_name, config, run_id, world.print):
        loggers.append(WandbLogger(run, world.print))
    return Loggers([*loggers, ConsoleLogger(world.print, bar)], run_id)


def wandb_disabled() -> bool:
    """Whether the environment turns W&B off (WANDB_DISABLED=true, WANDB_MODE=disabled)."""
    said = os.environ.get("WANDB_DISABLED", "").strip().lower()
    return (
        said in ("true", "1", "yes", "on") or os.environ.get("WANDB_MODE", "").strip().lower() == "disabled"
    )


def check_wandb() -> None:
    """Raise `UserError` for an environment variable that W&B refuses; nothing is written."""
    if wandb_disabled():
        return
    import wandb

    for name, value in os.environ.items():
        if not name.startswith("WANDB_"):
            continue
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except ValidationError as error:
            raise UserError(f"{name}={value}: W&B refuses it ({error.errors()[0]['msg']})") from error
        except wandb.UsageError as error:
            raise UserError(f"{name}={value}: W&B refuses it ({error})") from error


def check_wandb_sweep() -> None:
    """Raise `UserError` for an environment that would give every run of a sweep the same id."""
    if not wandb_disabled() and (run_id := from_environment("RUN_ID")):
        raise UserError(
            f"WANDB_RUN_ID={run_id}: --multirun trains several runs, which cannot share an id: unset WANDB_RUN_ID"
        )


def start_wandb(
    directory: Path,
    project: str,
    run_name: str,
    config: Mapping[str, Any],
    run_id: str,
    print_line: Callable[[str], None],
):
    """A W&B run: online when logged in and the server answers, else offline with one line, None when turned off."""
    if wandb_disabled():
        return None
    import wandb

    # By default the run's folder, which keeps W&B's files out of the working directory.
    directory = from_environment("DIR") or str(directory)

    def init(mode: str):
        settings = wandb.Settings(
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_INIT_SECONDS))
        )
        return wandb.init(
            project=project,
            name=run_name,
            id=run_id,
            resume=from_environment("RESUME") or "allow",  # a run that the server knows by this id goes on
            config=dict(config),
            dir=directory,
            mode=mode,
            settings=settings,
        )

    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if mode in ("offline", "dryrun"):
        return init("offline")
    try:
        # Without `prompt=False` a terminal would be asked for a key before training starts.
        if wandb.login(prompt=False, verify=False):
            return init("shared" if mode == "shared" else "online")
        reason = "not logged in (`wandb login` or WANDB_API_KEY)"
    except wandb.Error as error:
        reason = str(error).strip().partition("\n")[0]
        wandb.teardown()  # its service would go on holding the run's id and refuse it to the offline run
    print_line(f"W&B: {reason}; logging offline below {directory}, `wandb sync` uploads it later")
    return init("offline")


def keep_lines(path: Path, count: int) -> int:
    """Cut a metrics file back to its first `count` lines, atomically; how many are left.

    Lines among them that were not written whole, as after a crash of the machine, are removed too. A file that is not
    there is left so.
    """
    path = Path(path)
    if not path.exists():
        return 0
    with open(path, encoding="utf-8", errors="replace") as old:
        kept = [line for line in islice(old, count) if _is_whole(line)]
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return len(kept)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics as `name value` pairs of four digits, in their order."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


# What the progress bar has room for.
_BAR_METRICS = {"lm_loss": "loss", "exact_accuracy": "exact", "lr": "lr"}


def _is_whole(line: str) -> bool:
    """Whether a line of a metrics file was written to its end."""
    if not line.endswith("\n"):
        return False
    try:
        record = parse_json(line, METRICS_FILE)
    except UserError:
        return False
    return isinstance(record, dict) and isinstance(record.get("step"), int)


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot write metrics ({error.strerror or error}); free space or choose another checkpoint_path"
    )
