"""`metrics.jsonl` in the run's folder, which every run has."""

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
