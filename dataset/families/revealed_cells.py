"""Make puzzles with blank cells easier by revealing some cells of the answer (`reveal_prob`).

Shapes: B rows of the global batch, b rows on this rank, S cells of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST_SHARE = 0.5  # of the blank cells


@dataclass(frozen=True)
class RevealedCells:
    """With `probability`, reveal each `blank` cell of a row with a chance drawn for the row from 0..LARGEST_SHARE.

    The label stays a right answer, and no answer becomes right, because additional given cells only exclude answers.
    """

    probability: float
    blank: int

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transform inputs and labels (b, S), the rows `mine` of B = `count`; the draws are the same on all ranks."""
        share = np.where(rng.random(count) < self.probability, LARGEST_SHARE * rng.random(count), 0)
        shown = rng.random((count, inputs.shape[1]), dtype=np.float32)[mine] < share[mine, None]
        return np.where(shown & (inputs == self.blank), labels, inputs), labels
