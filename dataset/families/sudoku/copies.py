"""Augment Sudoku puzzles by random symmetries, vectorised over puzzles.

Shapes: E source puzzles, N side of the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataset.families.sudoku.rules import BoxShape, random_symmetries

_MAX_REDRAWS = 100
_GIVEN = 128  # a bit above all values, which `SudokuSymmetry.apply` moves with its cell

# (n, N²) puzzles and solutions -> (n,) bool, True for those that must not be used
CopyFilter = Callable[[np.ndarray, np.ndarray], np.ndarray]


def with_copies(
    rng: np.random.Generator,
    puzzles: np.ndarray,
    solutions: np.ndarray,
    num_aug: int,
    shape: BoxShape,
    rejects: CopyFilter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return puzzles and solutions, (E·(1 + num_aug), N²) uint8 each: every puzzle followed by its copies.

    A rejected copy is redrawn; after many rejections it is replaced by the puzzle itself.
    """
    # Mark the given cells of the solution with a bit, so that one gather moves both grids.
    marked = np.where(puzzles > 0, solutions | _GIVEN, solutions).astype(np.uint8)
    every = np.repeat(marked, num_aug + 1, axis=0)
    drawn = np.flatnonzero(np.arange(len(every)) % (num_aug + 1))
    for _ in range(1 + _MAX_REDRAWS):
        if not len(drawn):
            break
        images = _images(rng, marked, drawn // (num_aug + 1), shape)
        every[drawn] = images
        if rejects is None:
            break
        drawn = drawn[rejects(*_separate(images))]
    else:
        every[drawn] = marked[drawn // (num_aug + 1)]
    return _separate(every)


def _images(rng: np.random.Generator, marked: np.ndarray, which: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Return a random image (n, N²) of each of the marked grids `marked[which]`."""
    symmetries = random_symmetries(rng, len(which), shape)
    images = symmetries.apply(marked.reshape(-1, shape.size, shape.size), which)
    return images.reshape(len(which), shape.num_cells)


def _separate(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the puzzles and solutions of marked grids."""
    solutions = marked & (_GIVEN - 1)
    return solutions * (marked >> 7), solutions
