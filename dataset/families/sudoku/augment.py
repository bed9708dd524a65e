"""Copies of Sudoku puzzles under random legal symmetries, many at a time.

E = source puzzles, N = size of the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataset.families.sudoku.rules import BoxShape, random_symmetries

_MAX_REDRAWS = 100
_GIVEN = 128  # a bit above all values: `SudokuSymmetry.apply` moves it along

# (n, N²) puzzles and solutions -> (n,) bool: which of them must not be used
Refusal = Callable[[np.ndarray, np.ndarray], np.ndarray]


def with_copies(
    rng: np.random.Generator,
    puzzles: np.ndarray,
    solutions: np.ndarray,
    num_aug: int,
    shape: BoxShape,
    refused: Refusal | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(E·(1 + num_aug), N²) uint8: each of the (E, N²) puzzles as it is, then its copies; the same for solutions.

    A refused copy is drawn again; after many refusals the puzzle itself stands in for it.
    """
    # One gather moves both grids: the solution's values, with a bit where the puzzle gives them.
    marked = np.where(puzzles > 0, solutions | _GIVEN, solutions).astype(np.uint8)
    every = np.repeat(marked, num_aug + 1, axis=0)
    drawn = np.flatnonzero(np.arange(len(every)) % (num_aug + 1))
    for _ in range(1 + _MAX_REDRAWS):
        if not len(drawn):
            break
        images = _images(rng, marked, drawn // (num_aug + 1), shape)
        every[drawn] = images
        if refused is None:
            break
        drawn = drawn[refused(*_separate(images))]
    else:
        every[drawn] = marked[drawn // (num_aug + 1)]
    return _separate(every)


def _images(rng: np.random.Generator, marked: np.ndarray, which: np.ndarray, shape: BoxShape) -> np.ndarray:
    """(n, N²): a random image of each of the marked grids `marked[which]`."""
    symmetries = random_symmetries(rng, len(which), shape)
    images = symmetries.apply(marked.reshape(-1, shape.size, shape.size), which)
    return images.reshape(len(which), shape.num_cells)


def _separate(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and solutions of marked grids."""
    solutions = marked & (_GIVEN - 1)
    return solutions * (marked >> 7), solutions
