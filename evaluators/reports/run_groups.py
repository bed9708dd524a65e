"""Group runs by a key of their configs, and summarise the curves of each group: seeds as a median with a band."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from config.resume import flat
from evaluators.score import wilson_interval
from utils.command_line.help import written
from utils.errors import UserError
from utils.loggers import METRICS_FILE
from utils.reading import read_mapping
from utils.run_folder import CONFIG_FILE
from utils.run_records import read_metrics

Records = list[dict[str, float]]  # lines of metrics.jsonl

# Keys that say where a run is and how it is watched, not what is trained.
_INCIDENTAL = frozenset(
    {
        *("seed", "project_name", "run_name", "checkpoint_path", "resume", "logger", "log_interval"),
        *("device", "compile", "keep_last", "max_minutes", "eval_save_outputs", "checkpoint_every_eval"),
        *("checkpoint_interval_steps", "checkpoint_interval_minutes"),
    }
)
# Panel -> (metrics, the first that was logged counts; name).
METRICS = {
    "accuracy": (("solved", "exact_accuracy"), "puzzles solved"),
    "cells": (("accuracy",), "cells right"),
    "loss": (("lm_loss",), "loss per puzzle"),
    "steps": (("steps",), "supervision steps"),
}
SHARES = frozenset({"accuracy", "cells"})


@dataclass(frozen=True)
class ComparedRun:
    """The config and metrics of one run."""

    folder: Path
    config: Mapping[str, Any]  # by dotted keys
    records: Records


@dataclass(frozen=True)
class Curve:
    """The curve of one group of runs; arrays have one entry per evaluation."""

    label: str
    steps: np.ndarray
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_runs: int
    band: str
    """What `low` and `high` are; "" if they equal `middle`."""


def read_run(folder: str) -> ComparedRun:
    """Read a run's folder. Raises UserError if it has no config or no metrics."""
    path = Path(folder)
    if not (path / CONFIG_FILE).exists():
        raise UserError(f"runs: {folder} is not the folder of a run, because it has no {CONFIG_FILE}")
    if not (records := read_metrics(path)):
        raise UserError(f"runs: {folder} has no {METRICS_FILE}, or it is empty")
    return ComparedRun(path, dict(flat(read_mapping(path / CONFIG_FILE))), records)


def grouped(runs: Sequence[ComparedRun], by: str | None) -> tuple[dict[str, list[ComparedRun]], list[str]]:
    """Return label -> runs, in order of the values, and notices on runs of one group that differ in more than the seed.

    Without `by`, runs whose configs are equal but for seed, names, paths and logging form a group. Raises UserError if
    no run has the key `by`.
    """
    groups: dict[Any, list[ComparedRun]] = {}
    if by is None:
        for run in runs:
            groups.setdefault(tuple(sorted((k, repr(v)) for k, v in _trained(run).items())), []).append(run)
        return _named_by_differences(list(groups.values())), []
    known = set(chain.from_iterable(run.config for run in runs))
    if by not in known:
        inside = [key for key in sorted(known) if key.endswith(f".{by}")]
        near = inside or difflib.get_close_matches(by, sorted(known), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"by={by}: is not in the config of any of these runs{hint}")
    for run in runs:
        groups.setdefault(repr(run.config.get(by)), []).append(run)
    named = {
        f"{_short(by)} = {written(members[0].config.get(by))}": members
        for members in sorted(groups.values(), key=lambda members: _order(members[0].config.get(by)))
    }
    notices = [
        f"{label}: its runs also differ in {', '.join(keys)}, so the band is not that of the seed alone"
        for label, members in named.items()
        if (keys := differing(members))
    ]
    return named, notices


def differing(runs: Iterable[ComparedRun]) -> list[str]:
    """Return the dotted keys, except incidental ones, whose values differ among runs."""
    configs = [_trained(run) for run in runs]
    keys = sorted(set(chain.from_iterable(configs)))
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def summarised(
    label: str, runs: Sequence[ComparedRun], panel: str, split: str, x: str, num_rows: int | None
) -> Curve:
    """Return the median of the runs at the steps that all have, and their range; of one run the 95% interval.

    `num_rows` is the number of test puzzles behind a share, None if it is unknown. Raises UserError if the runs have no
    step in common, or lack the metric or `x`.
    """
    points = [dict(_points(run, panel, split, x)) for run in runs]
    common = sorted(set.intersection(*(set(each) for each in points)))
    if not common:
        raise UserError(
            f"{label}: its runs have no evaluation at the same step, so they have no median: "
            f"{', '.join(str(run.folder) for run in runs)}"
        )
    across, values = np.array([[each[step] for step in common] for each in points], float).transpose(2, 0, 1)
    middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    band = f"range of {len(runs)} runs" if len(runs) > 1 else ""
    if len(runs) == 1 and panel in SHARES - {"cells"} and num_rows:
        intervals = [wilson_interval(round(share * num_rows), num_rows) for share in middle]
        low, high = np.array(intervals).T
        band = f"95% interval, {num_rows:,} puzzles"
    return Curve(label, np.array(common), np.median(across, axis=0), middle, low, high, len(runs), band)


def csv_of(curves: Sequence[Curve], panel: str, x: str) -> str:
    """Return what is drawn as CSV, one line per point."""
    across = f"{x}," if x != "step" else ""
    lines = [f"group,runs,step,{across}{panel},low,high,band"]
    for curve in curves:
        columns = [curve.x] if x != "step" else []
        columns += [curve.middle, curve.low, curve.high]
        for row, step in enumerate(curve.steps):
            numbers = ",".join(f"{column[row]:.10g}" for column in columns)
            lines.append(f'"{_escaped(curve.label)}",{curve.num_runs},{step},{numbers},"{curve.band}"')
    return "\n".join(lines) + "\n"


# Cost so far -> its name in metrics.jsonl and the factor to the unit of the axis.
COSTS = {
    "flops": ("train/flops", 1.0),
    "puzzles": ("train/puzzles", 1.0),
    "minutes": ("train/seconds", 1 / 60),
}


def _points(run: ComparedRun, panel: str, split: str, x: str) -> Iterator[tuple[int, tuple[float, float]]]:
    """Yield (step, (x, value)) of each record with the metric; the cost is that of the newest training record."""
    names = [f"{split}/{name}" for name in METRICS[panel][0]]
    name = next((name for name in names if any(name in record for record in run.records)), None)
    if name is None:
        raise UserError(f"panel={panel}: {run.folder} has logged no {' or '.join(names)}")
    cost, factor = COSTS.get(x, ("step", 1.0))
    spent = None
    for record in run.records:
        spent = record.get(cost, spent)
        if name in record:
            if spent is None:
                raise UserError(f"x={x}: {run.folder} has logged no {cost} before step {record['step']}")
            yield int(record["step"]), (factor * spent, record[name])


def _trained(run: ComparedRun) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key.partition(".")[0] not in _INCIDENTAL}


def _named_by_differences(groups: list[list[ComparedRun]]) -> dict[str, list[ComparedRun]]:
    """Name each group by the keys in which it differs from the others, or by a folder if there are more than two."""
    keys = differing(members[0] for members in groups)
    named: dict[str, list[ComparedRun]] = {}
    for members in groups:
        config = members[0].config
        label = members[0].folder.name
        if 0 < len(keys) <= 2:
            label = ", ".join(f"{_short(key)} = {written(config.get(key))}" for key in keys)
        while label in named:
            label += "'"
        named[label] = members
    return named


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _order(value: Any) -> tuple[bool, Any]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not is_number, value if is_number else str(value))


def _escaped(text: str) -> str:
    return text.replace('"', '""')
