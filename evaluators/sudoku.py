"""Share of Sudoku puzzles that a model solves, in total and by difficulty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataset.families.sudoku.rules import (
    DIFFICULTY_CLASSES,
    BoxShape,
    is_solution,
    keeps_givens,
    recorded_shape,
    to_values,
)
from dataset.format import IGNORE_LABEL_ID, ExampleSet, Metadata, Split
from dataset.mixing import named_sets
from evaluators.base import Evaluator, open_test_splits, summed_by_set
from utils.errors import UserError

BOUNDS, CLASSES = DIFFICULTY_CLASSES
_UNKNOWN = len(CLASSES)


class Sudoku(Evaluator):
    """Compute `sudoku/valid` and `sudoku/exact`, shares of the test puzzles.

    valid: every row, column and box contains each symbol once, and given cells are unchanged. exact: the answer equals
    the label, which is equivalent for puzzles with one solution. If the dataset records difficulty, also
    `sudoku/exact_difficulty_{class}` and the number of puzzles in the class, `sudoku/count_difficulty_{class}`.
    Puzzles without a label count for `valid` only. With several sets, each also has `sudoku/{set}/...`.
    """

    def __init__(
        self,
        data_paths: list[str],
        metadata: Metadata,
        *,
        splits: Sequence[tuple[str, Split]] | None = None,
    ):
        super().__init__(data_paths, metadata)
        self.sets = named_sets(list(splits or open_test_splits(data_paths)))
        self.shapes = {name: _shape(example_set) for name, example_set in self.sets.items()}
        kinds = {s.metadata.extra.get("difficulty") for s in self.sets.values() if s.difficulty is not None}
        self.comparable = len(kinds) == 1  # guesses and ratings must not be pooled
        self.begin()

    def metric_names(self) -> set[str]:
        by_difficulty = {"sudoku": self.comparable}
        if len(self.sets) > 1:
            by_difficulty |= {f"sudoku/{name}": s.difficulty is not None for name, s in self.sets.items()}
        names = set()
        for prefix, known in by_difficulty.items():
            names |= {f"{prefix}/valid", f"{prefix}/exact"}
            if known:
                names |= {f"{prefix}/{what}_difficulty_{c}" for what in ("exact", "count") for c in CLASSES}
        return names

    def begin(self) -> None:
        # Set -> (classes + 1, 4): puzzles, valid answers, labelled puzzles, exact answers, by difficulty class.
        self._counts: dict[str, np.ndarray] = {}

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        inputs, labels, predictions = (outputs[name].numpy() for name in ("inputs", "labels", "preds"))
        answers = predictions.astype(np.int64) - 1
        valid = is_solution(answers, self.shapes[set_name]) & keeps_givens(to_values(inputs), answers)
        ignored = labels == IGNORE_LABEL_ID
        labelled = ~ignored.all(axis=1)
        exact = ((predictions == labels) | ignored).all(axis=1) & labelled
        counts = self._counts.setdefault(set_name, np.zeros((len(CLASSES) + 1, 4), np.int64))
        rows = np.stack([np.ones_like(valid), valid, labelled, exact], axis=1).astype(np.int64)
        np.add.at(counts, self._classes(set_name, example_indices.numpy()), rows)

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        counts = summed_by_set(gather(self._counts))
        if not counts:
            return {}
        values = _values("sudoku", sum(counts.values()), by_difficulty=self.comparable)
        if len(counts) > 1:
            for set_name, of_set in counts.items():
                values |= _values(f"sudoku/{set_name}", of_set, by_difficulty=True)
        return values

    def _classes(self, set_name: str, examples: np.ndarray) -> np.ndarray:
        difficulty = self.sets[set_name].difficulty
        if difficulty is None:
            return np.full(len(examples), _UNKNOWN)
        return np.searchsorted(BOUNDS, difficulty[examples])


def _values(prefix: str, counts: np.ndarray, *, by_difficulty: bool) -> dict[str, float]:
    """Turn (classes + 1, 4) counts into named shares."""
    number, valid, labelled, exact = counts.sum(axis=0)
    values = {f"{prefix}/valid": float(valid / number)}
    if labelled:
        values[f"{prefix}/exact"] = float(exact / labelled)
    if by_difficulty:
        # Excluding unknown difficulty.
        for name, (*_, of_class, solved) in zip(CLASSES, counts, strict=False):
            if of_class:
                values[f"{prefix}/exact_difficulty_{name}"] = float(solved / of_class)
                values[f"{prefix}/count_difficulty_{name}"] = float(of_class)
    return values


def _shape(example_set: ExampleSet) -> BoxShape:
    """Return the box shape of a set. Raises `UserError` if it is not Sudoku."""
    metadata = example_set.metadata
    where = example_set.split_dir / "dataset.json"
    shape = recorded_shape(metadata.extra, metadata.seq_len, str(where))
    if metadata.vocab_size != shape.vocab_size:
        raise UserError(
            f"{where}: vocab_size is {metadata.vocab_size}, but {shape.size}x{shape.size} Sudoku has "
            f"{shape.vocab_size} tokens: name another evaluator than sudoku@Sudoku, or none with evaluators=[]"
        )
    return shape
