"""The training cost of given weights (FLOP, puzzles, time), for reports and model cards."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from trained_run import Trained
from utils.run_records import read_metrics

COST_KEY = "training"  # key in the metadata of an export, which comes without the log of the run
_LOGGED = {"train/flops": "flops", "train/puzzles": "puzzles_finished", "train/seconds": "seconds"}


def training_cost(trained: Trained) -> dict[str, Any]:
    """Return the cost logged by the run up to these weights, or recorded in an export, or {} if unknown.

    `flops` are those of models/flops.py; `puzzles_finished` counts every halted row; `distinct_puzzles` is that
    of the train data or, if it does not say, its number of groups, so augmented copies are not counted.
    """
    if COST_KEY in trained.metadata:
        return trained.metadata[COST_KEY]
    if trained.step is None or not trained.located.folder.is_dir():
        return {}
    cost: dict[str, Any] = {}
    for record in read_metrics(trained.located.folder):
        if record["step"] <= trained.step:
            cost |= {name: record[key] for key, name in _LOGGED.items() if key in record}
    if not cost:
        return {}
    distinct = trained.metadata.get("distinct_puzzles", trained.metadata.get("total_groups"))
    return {"steps": trained.step} | cost | ({"distinct_puzzles": distinct} if distinct else {})


def cost_in_words(cost: dict[str, Any]) -> str:
    """Format as `4,000 steps, 2.0e+13 FLOP, 1,000 distinct puzzles, 12 minutes`; "" if nothing is known.

    Durations below two minutes are given in seconds.
    """
    parts = [f"{cost['steps']:,} steps"] if "steps" in cost else []
    parts += [f"{cost['flops']:.2g} FLOP"] if "flops" in cost else []
    parts += [f"{cost['distinct_puzzles']:,} distinct puzzles"] if "distinct_puzzles" in cost else []
    if "seconds" in cost:
        seconds = cost["seconds"]
        parts += [f"{seconds / 60:,.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"]
    return ", ".join(parts)


def processor() -> str:
    """Number of cores and name of the CPU."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in path.read_text().splitlines()
            if line.startswith("model name")
        ]
        if names:
            return f"{len(names)} cores of {names[0]}"
    return platform.processor() or platform.machine()
