"""Read what a run has recorded: its metrics, and the predictions that it saved in evaluations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.loggers import METRICS_FILE
from utils.reading import parse_json
from utils.weights import read_state_dict

_PREDICTIONS = re.compile(r"step_(\d+)_all_preds\.(\d+)")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read the lines of a run's metrics.jsonl in order; [] if there is no file.

    Values that were not finite are omitted. Raises UserError for an invalid line.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line, f"{path} line {number}")
        except UserError:
            if number == len(lines):  # being written at this moment, or truncated by a crash
                break
            raise
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}: line {number} has no step")
        records.append({name: value for name, value in record.items() if isinstance(value, int | float)})
    return records


def read_predictions(folder: Path) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield (step, (n, S) predictions of each rank) for evaluations that saved them, in order of the steps."""
    files: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in folder.iterdir():
        if match := _PREDICTIONS.fullmatch(path.name):
            files[int(match[1])][int(match[2])] = path
    for step, by_rank in sorted(files.items()):
        saved = [read_state_dict(by_rank[rank]) for rank in sorted(by_rank)]
        if all("preds" in tensors for tensors in saved):
            yield step, [tensors["preds"].numpy() for tensors in saved]
