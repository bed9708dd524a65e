"""Exact solver for N-Queens completion: backtracking with bit sets.

A bit set is a Python integer. Column c is bit c of a set of columns. A diagonal that rises to the right is bit
row + column, and one that falls is bit column - row + N - 1, so that one shift aligns it with the columns of a row.
Shapes: N side of the board, S = N² cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from dataset.families.nqueens.rules import EMPTY, QUEEN, attacking_pairs


def completions(
    question: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> Iterator[np.ndarray]:
    """Yield every answer (S,) uint8 to a question (S,) once, by exhaustive search.

    With `rng`, the columns of each row are tried in random order; then any answer may come first, but not all are
    equally likely.
    """
    if attacking_pairs(question, size):
        return
    columns, taken = [-1] * size, (0, 0, 0)
    for row, column in np.argwhere(np.reshape(question, (size, size)) == QUEEN).tolist():
        columns[row], taken = column, _with_queen(taken, row, column, size)
    rows = [row for row in range(size) if columns[row] < 0]
    for found in _completed(columns, rows, taken, rng):
        answer = np.full((size, size), EMPTY, np.uint8)
        answer[np.arange(size), found] = QUEEN
        yield answer.reshape(-1)


def count_completions(question: np.ndarray, size: int, most: int) -> int:
    """Count the answers to a question (S,), up to `most`."""
    return sum(1 for _ in islice(completions(question, size), most))


Taken = tuple[int, int, int]  # columns, rising and falling diagonals that have a queen


def _with_queen(taken: Taken, row: int, column: int, size: int) -> Taken:
    columns, rising, falling = taken
    return columns | 1 << column, rising | 1 << (row + column), falling | 1 << (column - row + size - 1)


def _completed(
    columns: list[int], rows: list[int], taken: Taken, rng: np.random.Generator | None
) -> Iterator[list[int]]:
    """Yield the columns of all queens for every way to fill `rows`; `columns` holds those of the other rows."""
    if not rows:
        yield columns
        return
    size = len(columns)
    in_columns, rising, falling = taken
    free = {
        row: (1 << size) - 1 & ~(in_columns | rising >> row | falling >> (size - 1 - row)) for row in rows
    }
    # Choose the row with the fewest choices, so that a row without any is found at once.
    row = min(rows, key=lambda row: free[row].bit_count())
    others = [other for other in rows if other != row]
    choices = [column for column in range(size) if free[row] >> column & 1]
    if rng is not None:
        rng.shuffle(choices)
    for column in choices:
        columns[row] = column
        yield from _completed(columns, others, _with_queen(taken, row, column, size), rng)
    columns[row] = -1
