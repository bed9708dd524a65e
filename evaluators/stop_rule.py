"""Rules for when a row leaves the batch: the model's own halting rule, or a calibrated one.

A calibrated rule is stricter than the model's: q_halt must exceed a threshold, and the answer must not have changed for
some steps; evaluators/calibration.py chooses both numbers. `halt=0.98` gives the threshold as a probability.
Shapes: n rows, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StopRule:
    """Stop at the first step whose margin exceeds `threshold` and whose answer has not changed for `patience` steps.

    The margin is q_halt or, for architectures that compare the two, q_halt - q_continue: the model's own rule is
    threshold 0 and patience 0.
    """

    threshold: float = 0.0
    patience: int = 0

    @classmethod
    def of_probability(cls, probability: float) -> StopRule:
        """Stop when the sigmoid of the margin, the model's probability that its answer is right, exceeds a number."""
        return cls(math.log(probability / (1 - probability)))

    def settled(self, margin: np.ndarray, still: np.ndarray) -> np.ndarray:
        """Return which rows stop, (n,) or (T, n) bool, given the margins and the steps since the answers changed."""
        return (margin > self.threshold) & (still >= self.patience)

    @property
    def in_words(self) -> str:
        parts = []
        if not math.isinf(self.threshold):
            parts.append(f"the halting margin exceeds {self.threshold:.3g}")
        elif not self.patience:
            return "the first step is done"
        if self.patience:
            steps = "step" if self.patience == 1 else "steps"
            parts.append(f"the answer has been unchanged for {self.patience} {steps}")
        return " and ".join(parts)


def steps_since_change(answers: np.ndarray) -> np.ndarray:
    """Return (T, n) int64: the number of steps since each of the answers (T, n, S) last changed."""
    still = np.zeros(answers.shape[:2], np.int64)
    for step in range(1, len(answers)):
        same = (answers[step] == answers[step - 1]).all(1)
        still[step] = np.where(same, still[step - 1] + 1, 0)
    return still


OWN_RULE = StopRule()  # the architecture's halting rule
