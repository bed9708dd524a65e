"""Easier versions of puzzles whose blank cells are to be filled in (`reveal_prob`): some cells of the answer are shown.

Shapes: B rows of the global batch, b of them on this rank, S cells of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST_SHARE = 0.5  # of the blank cells


@dataclass(frozen=True)
class RevealedCells:
    """With `probability` a row shows each `blank` cell with a chance drawn for the row, from 0..LARGEST_SHARE.

    An answer stays right, and no other becomes so, because clues that agree with an answer exclude no more than others.
    """

    probability: float
    blank: int

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (b, S) of the rows `mine` of B = `count`; what is drawn depends on no other rank."""
        share = np.where(rng.random(count) < self.probability, LARGEST_SHARE * rng.random(count), 0)
        shown = rng.random((count, inputs.shape[1]), dtype=np.float32)[mine] < share[mine, None]
        return np.where(shown & (inputs == self.blank), labels, inputs), labels
