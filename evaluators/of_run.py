"""What a report on a run opens: its metrics, its data, its model and the folder that the report goes to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config.report_schema import ReportConfig
from config.trained import Trained
from evaluators.inference import Solver
from puzzle_dataset import PuzzleDataset
from utils.device import resolve_device
from utils.errors import UserError
from utils.files import make_folder
from utils.hub import HUB_PREFIX
from utils.loggers import METRICS_FILE
from utils.reading import parse_json
from utils.weights import read_state_dict

Records = list[dict[str, float]]
_PREDICTIONS = re.compile(r"step_(\d+)_all_preds\.(\d+)")


def read_metrics(folder: Path) -> Records:
    """The lines of a run's metrics.jsonl in their order, [] where there is none.

    Values that were not finite are left out. Raises UserError for a line that is no metrics.
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
            if number == len(lines):  # being written at this moment, or cut off by a crash
                break
            raise
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}: line {number} has no step, so it is no line of metrics")
        records.append({name: value for name, value in record.items() if isinstance(value, int | float)})
    return records


def read_predictions(folder: Path) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, (n, S) predictions of each rank) of the evaluations that saved them, in their order, one at a time."""
    files: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in folder.iterdir():
        if match := _PREDICTIONS.fullmatch(path.name):
            files[int(match[1])][int(match[2])] = path
    for step, by_rank in sorted(files.items()):
        saved = [read_state_dict(by_rank[rank]) for rank in sorted(by_rank)]
        if all("preds" in tensors for tensors in saved):
            yield step, [tensors["preds"].numpy() for tensors in saved]


def open_solver(trained: Trained, data: PuzzleDataset, device: str, notice=print) -> Solver:
    """The model, built so that it answers this data."""
    sizes = trained.sizes_for(data.model_sizes, [path for path, _ in data.splits], notice)
    resolved = resolve_device(device)
    return Solver(trained.build(sizes=sizes, device=resolved, notice=notice), resolved)


def open_test_data(trained: Trained, config: ReportConfig) -> PuzzleDataset:
    """The test data that is asked for, otherwise the run's own; raises UserError where it is not to be had."""
    values = trained.config.values
    paths = config.data_paths_test or values["data_paths_test"] or values["data_paths"]
    return PuzzleDataset(paths, "test", global_batch_size=min(values["global_batch_size"], config.limit))


def report_folder(trained: Trained, out: str | None, name: str = "") -> Path:
    """The folder to write to, made: `out`, otherwise `name` in the run's, of weights of the hub in this one."""
    if out is not None:
        folder = Path(out)
    elif trained.label.startswith(HUB_PREFIX):
        folder = Path("reports", trained.label.removeprefix(HUB_PREFIX).replace("/", "--"), name)
    else:
        folder = trained.located.folder / name
    make_folder(folder)
    return folder
