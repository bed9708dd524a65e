"""Share of mazes that a model solves: with any path, with a shortest path, or with the labelled path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataset.families.maze.rules import VOCAB_SIZE, judge, square_shape
from dataset.format import IGNORE_LABEL_ID, Metadata, read_metadata
from evaluators.base import Evaluator, summed_by_set
from utils.errors import UserError


class Maze(Evaluator):
    """Compute `maze/valid_path`, `maze/optimal` and `maze/exact`, shares of the test mazes.

    `optimal` accepts every shortest path (`dataset.families.maze.rules.judge`), `exact` only the labelled one; mazes of
    the published data have many shortest paths. Mazes without a label are excluded from `exact`. With several sets,
    each also has `maze/{set}/...`.
    """

    METRICS = ("valid_path", "optimal", "exact")

    def __init__(self, data_paths: list[str], metadata: Metadata):
        super().__init__(data_paths, metadata)
        self.grid_shape = _grid_shape(data_paths, metadata)
        self.begin()

    def metric_names(self) -> set[str]:
        prefixes = ["maze"]
        if len(self.metadata.sets) > 1:
            prefixes += [f"maze/{set_name}" for set_name in self.metadata.sets]
        return {f"{prefix}/{metric}" for prefix in prefixes for metric in self.METRICS}

    def begin(self) -> None:
        # Set -> (2, metrics): denominators, then numerators.
        self._counts: dict[str, np.ndarray] = {}

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        inputs, labels, predictions = (outputs[name].numpy() for name in ("inputs", "labels", "preds"))
        valid, optimal = judge(inputs, predictions, self.grid_shape)
        ignored = labels == IGNORE_LABEL_ID
        labelled = ~ignored.all(axis=1)
        exact = ((predictions == labels) | ignored).all(axis=1) & labelled
        numbers = [len(inputs), len(inputs), labelled.sum()]
        counts = np.array([numbers, [valid.sum(), optimal.sum(), exact.sum()]], np.int64)
        self._counts[set_name] = self._counts.get(set_name, 0) + counts

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        counts = summed_by_set(gather(self._counts))
        if not counts:
            return {}
        named = {"maze": sum(counts.values())}
        if len(counts) > 1:
            named |= {f"maze/{set_name}": of_set for set_name, of_set in counts.items()}
        return {
            f"{prefix}/{metric}": float(solved / number)
            for prefix, counts in named.items()
            for metric, number, solved in zip(self.METRICS, *counts, strict=True)
            if number
        }


def _grid_shape(data_paths: list[str], metadata: Metadata) -> tuple[int, int]:
    """(rows, columns) of the grids, from dataset.json; square if it records no shape."""
    if metadata.vocab_size != VOCAB_SIZE:
        raise UserError(
            f"evaluators: maze@Maze needs mazes, with {VOCAB_SIZE} tokens, but {', '.join(data_paths)} has "
            f"vocab_size {metadata.vocab_size}: name another evaluator, or none with evaluators=[]"
        )
    shapes: dict[tuple[int, int], str] = {}
    for path in data_paths:
        recorded = read_metadata(Path(path) / "test").extra.get("grid_shape")
        shape = square_shape(metadata.seq_len) if recorded is None else tuple(recorded)
        if len(shape) != 2 or shape[0] * shape[1] != metadata.seq_len:
            raise UserError(
                f"{path}/test/dataset.json: grid_shape is {recorded}: its product must be seq_len, {metadata.seq_len}"
            )
        shapes[shape] = path
    if len(shapes) > 1:
        (one, its_path), (other, other_path) = list(shapes.items())[:2]
        raise UserError(
            f"grid_shape is {list(one)} in {its_path} and {list(other)} in {other_path}: "
            "evaluate them separately"
        )
    return next(iter(shapes))
