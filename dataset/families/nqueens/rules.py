"""Rules of N-Queens completion: add queens until there are N, no two of them in one row, column or diagonal.

Shapes: n boards, N side of the board, S = N² cells in reading order. Questions and answers are tokens.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral

PAD, EMPTY, QUEEN = range(3)
VOCAB_SIZE = 3
SYMBOLS = ".Q"
SIZES = range(4, 17)  # smaller boards have one solution or none
# Number of solutions up to rotation and reflection (OEIS A002562), for sizes with so few of them that most answers of
# a test split also occur in train.
NUM_INEQUIVALENT = {4: 1, 5: 2, 6: 1, 7: 6, 8: 12, 9: 46, 10: 92}

Array: TypeAlias = Any
"""`numpy.ndarray` or `torch.Tensor`; this module does not import torch."""


def solves(questions: Array, answers: Array, size: int) -> Array:
    """Return (n,) bool, True for answers (n, S) with N queens, including the given ones, that do not attack each other.

    Accepts NumPy arrays and torch tensors of any integer dtype, because it only calls methods that both have. It does
    not synchronise with the device, and no shape depends on values.
    """
    queens = (answers == QUEEN).reshape(-1, size, size)
    one_a_line = (queens.sum(2) == 1).all(1) & (queens.sum(1) == 1).all(1)
    # N minus the column of the queen, in rows with one queen; rows count from 1.
    columns = queens.cumsum(2).sum(2)  # (n, N)
    rows = (columns >= 0).cumsum(1)
    one_a_diagonal = _all_differ(columns + rows) & _all_differ(columns - rows)
    tokens = ((answers == QUEEN) | (answers == EMPTY)).all(1)
    kept = ((questions != QUEEN) | (answers == QUEEN)).all(1)
    return one_a_line & one_a_diagonal & tokens & kept


def _all_differ(values: Array) -> Array:
    """Return (n,) bool, True for rows of values (n, N) that are all different."""
    equal = values[:, :, None] == values[:, None, :]
    return equal.sum((1, 2)) == values.shape[1]  # each value equals itself


def attacking_pairs(board: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Return pairs of cells with queens in one row, column or diagonal of a board (S,), even with others in between."""
    cells = np.flatnonzero(board == QUEEN)
    rows, columns = np.divmod(cells, size)
    down, right = (np.abs(values[:, None] - values) for values in (rows, columns))
    attacks = np.triu((down == 0) | (right == 0) | (down == right), 1)
    return [(int(cells[one]), int(cells[other])) for one, other in np.argwhere(attacks)]


def symmetry_keys(boards: np.ndarray, size: int) -> list[bytes]:
    """Return a key for each of the boards (n, S), equal up to rotation and reflection: the smallest image."""
    grids = np.ascontiguousarray(boards, np.uint8).reshape(-1, size, size)
    images = [dihedral(grids, transform).reshape(len(grids), -1) for transform in range(NUM_DIHEDRAL)]
    return [min(row.tobytes() for row in rows) for rows in zip(*images, strict=True)]
