"""Easier versions of training puzzles: some cells of the answer are shown in the question.

Shapes: B rows of the global batch, b of them on this rank, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.family import family_of
from dataset.metadata import Metadata
from dataset.sudoku import BLANK_ID
from utils.errors import UserError

LARGEST_SHARE = 0.5  # of the blank cells of a puzzle


@dataclass(frozen=True)
class RevealedCells:
    """With `probability` a row shows each of its blank cells with a chance of its own, drawn from 0..LARGEST_SHARE.

    The puzzle keeps its single solution, because clues that agree with a solution exclude no more than others.
    """

    probability: float

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (b, S) of the rows `mine` of B = `count`; what is drawn depends on no other rank."""
        share = np.where(rng.random(count) < self.probability, LARGEST_SHARE * rng.random(count), 0)
        shown = rng.random((count, inputs.shape[1]), dtype=np.float32)[mine] < share[mine, None]
        return np.where(shown & (inputs == BLANK_ID), labels, inputs), labels


def revealed_cells(probability: float, described: Sequence[tuple[str, Metadata]]) -> RevealedCells:
    """Raises UserError, naming the folder, if a dataset is of a family whose questions hold no part of the answer."""
    for folder, metadata in described:
        family = family_of(metadata)
        if family.name != "sudoku":
            raise UserError(
                f"{folder}: reveal_prob={probability} shows cells of the answer, which is possible with Sudoku only, "
                f"but {f'this is of family {family.name}' if family.name else family.reason}: leave it out"
            )
    return RevealedCells(probability)
