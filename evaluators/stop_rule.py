"""When a row that is being solved leaves the batch: the model's own halting rule, or a calibrated one.

A calibrated rule asks for more than the model's (q_halt above a threshold, an answer that has stood still for some
steps); evaluators/calibration.py chooses both numbers. Shapes: n rows, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StopRule:
    """Stop at the first step whose margin exceeds `threshold`, and whose answer is that of `patience` steps before.

    The margin is q_halt or, for architectures that compare the two, q_halt - q_continue: the model's own rule is
    threshold 0 and patience 0.
    """

    threshold: float = 0.0
    patience: int = 0

    def settled(self, margin: np.ndarray, still: np.ndarray) -> np.ndarray:
        """(n,) bool, or (T, n): whether rows stop, by their margins and the steps their answers have stood still."""
        return (margin > self.threshold) & (still >= self.patience)

    @property
    def in_words(self) -> str:
        parts = []
        if not math.isinf(self.threshold):
            parts.append(f"the halting margin exceeds {self.threshold:.3g}")
        if self.patience or not parts:
            steps = "step" if self.patience == 1 else "steps"
            parts.append(f"the answer has stood still for {self.patience} {steps}")
        return " and ".join(parts)


def steps_stood_still(answers: np.ndarray) -> np.ndarray:
    """(T, n) int64: for how many steps each answer (T, n, S) has been the same, 0 at a step that changed it."""
    still = np.zeros(answers.shape[:2], np.int64)
    for step in range(1, len(answers)):
        same = (answers[step] == answers[step - 1]).all(1)
        still[step] = np.where(same, still[step - 1] + 1, 0)
    return still


OWN_RULE = StopRule()  # the architecture's halting rule
