"""The number of rows behind an accuracy, and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from dataset.families import family_of
from dataset.format import IGNORE_LABEL_ID, Metadata
from evaluators.base import Evaluator


class Score(Evaluator):
    """Count evaluated, labelled, exact and solved rows; after `result` every rank has the totals.

    exact: the answer equals the label. solved: the same, except for puzzles with several right answers, where it is
    right by the rules, also without a label. `judged` is the number of rows that can count as solved.
    """

    required_outputs: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "preds"})

    def __init__(self, data_paths: list[str], metadata: Metadata):
        super().__init__(data_paths, metadata)
        family = family_of(metadata)
        self.check = family.check if family.several_answers else None
        self.begin()

    def metric_names(self) -> set[str]:
        return set()

    def begin(self) -> None:
        self.rows = self.labelled = self.exact = self.solved = 0

    @property
    def judged(self) -> int:
        return self.labelled if self.check is None else self.rows

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        labels, answers = outputs["labels"], outputs["preds"]
        labelled = labels != IGNORE_LABEL_ID  # (B, S)
        counted = labelled.any(-1)
        exact = counted & ~(labelled & (answers != labels)).any(-1)
        solved = exact.numpy()
        if self.check is not None:
            solved = self.check(outputs["inputs"].numpy(), answers.numpy())
        self.rows += len(labels)
        self.labelled += int(counted.sum())
        self.exact += int(exact.sum())
        self.solved += int(solved.sum())

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        totals = zip(*gather((self.rows, self.labelled, self.exact, self.solved)), strict=True)
        self.rows, self.labelled, self.exact, self.solved = (sum(total) for total in totals)
        return {}

    def in_words(self, num_puzzles: int) -> str:
        """State how many examples were solved; a test split may have several per puzzle, as in ARC."""
        if not self.judged:
            return f"no score, because the answers to all {self.rows} test examples are unknown,"
        what = (
            "unseen puzzles" if num_puzzles == self.rows else f"test examples of {num_puzzles} unseen puzzles"
        )
        if self.judged < self.rows:
            what = f"test examples with a known answer, of {self.rows},"
        return f"solved {self.solved} of {self.judged} {what} ({self.solved / self.judged:.1%})"


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) for a proportion of `successes` in `trials`, 95% for the default z.

    Unlike plus or minus two standard errors, it stays within 0..1 and is not empty at 0% and 100%.
    """
    assert 0 <= successes <= trials, (successes, trials)
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # Rounding must not put 0% or 100% outside its own interval.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
