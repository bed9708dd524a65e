"""Logger of `metrics.jsonl`, in the folder of every run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import replacing
from utils.loggers.base import Logger
from utils.reading import parse_json

METRICS_FILE = "metrics.jsonl"


class JsonLinesLogger(Logger):
    """Writes one JSON object per line: `step`, `time` (seconds since 1970) and metrics; each line is flushed.

    First removes all but the first `num_lines` lines of an earlier start, because a resumed run writes them again. The
    step does not identify these lines, because an evaluation may have been logged after the state of its step was
    saved. Values that are not finite are written as null, because JSON has no NaN.
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


def keep_lines(path: Path, count: int) -> int:
    """Truncate a metrics file to its first `count` lines, atomically; returns the number of lines kept.

    Incomplete lines, as after a crash of the machine, are removed too. A missing file is not created.
    """
    path = Path(path)
    if not path.exists():
        return 0
    with open(path, encoding="utf-8", errors="replace") as old:
        kept = [line for line in islice(old, count) if _is_whole(line)]
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return len(kept)


def _is_whole(line: str) -> bool:
    """True if a line of a metrics file is complete."""
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
