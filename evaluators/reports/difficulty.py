"""Accuracy by the difficulty that a dataset records."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from dataset.families import family_of
from dataset.format import IGNORE_LABEL_ID
from evaluators.base import Evaluator
from puzzle_dataset import PuzzleDataset, named_sets


class ByDifficulty(Evaluator):
    """Collect solved rows and the difficulty recorded by their dataset; single process only."""

    required_outputs: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "preds"})
    MOST_CLASSES: ClassVar[int] = 6

    def __init__(self, data: PuzzleDataset):
        super().__init__([path for path, _ in data.splits], data.metadata)
        self._sets = named_sets(data.splits)
        families = {name: family_of(s.metadata) for name, s in self._sets.items()}
        self._checks = {
            name: family.check if family.several_answers else None for name, family in families.items()
        }
        self.by_rules = any(check is not None for check in self._checks.values())
        recorded = [s for s in self._sets.values() if s.difficulty is not None]
        # Difficulty cannot be pooled across different units.
        units = {str(s.metadata.extra.get("difficulty", "as recorded")) for s in recorded}
        self.unit = units.pop() if len(units) == 1 else ""
        classes = {family_of(s.metadata).difficulty_classes for s in recorded}
        self.known_classes = classes.pop() if len(classes) == 1 else None

    def begin(self) -> None:
        self._difficulty: list[np.ndarray] = []
        self._solved: list[np.ndarray] = []

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        difficulty = self._sets[set_name].difficulty
        if difficulty is None or not self.unit:
            return
        inputs, labels, preds = (outputs[name].numpy() for name in ("inputs", "labels", "preds"))
        labelled = labels != IGNORE_LABEL_ID
        check = self._checks[set_name]
        if check is None:
            known, solved = labelled.any(1), ((preds == labels) | ~labelled).all(1)
        else:
            known, solved = np.ones(len(preds), bool), check(inputs, preds)
        self._difficulty.append(np.asarray(difficulty[example_indices.numpy()])[known])
        self._solved.append(solved[known])

    def result(self, gather, save_dir) -> dict[str, float]:
        return {}

    def classes(self) -> dict[str, tuple[int, int]]:
        """Return name -> (puzzles, solved), from easy to hard: the classes of the family, or ones of similar size."""
        if not self._difficulty:
            return {}
        difficulty, solved = np.concatenate(self._difficulty), np.concatenate(self._solved)
        if self.known_classes is not None:
            bounds, classes = self.known_classes
            names = [name.replace("over_", "over ") for name in classes]
            which = np.searchsorted(bounds, difficulty)
        else:
            cuts = np.quantile(difficulty, np.linspace(0, 1, self.MOST_CLASSES + 1)[1:-1], method="lower")
            which = np.searchsorted(np.unique(cuts), difficulty)
            spans = [difficulty[which == number] for number in range(len(np.unique(cuts)) + 1)]
            names = [_span(values) for values in spans]
        return {
            name: (int((which == number).sum()), int(solved[which == number].sum()))
            for number, name in enumerate(names)
            if (which == number).any()
        }


def _span(values: np.ndarray) -> str:
    """Format the difficulty range of a class; "" if it is empty."""
    if not len(values):
        return ""
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
