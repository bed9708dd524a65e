"""A hash of Sudoku puzzles that their legal symmetries cannot change, for finding leaks between splits.

Colour refinement (Weisfeiler and Leman) on the puzzle with its solution: cells start as given or blank, then
repeatedly take in the multisets of colours of their row, column, box, digit, band and stack. Equivalent puzzles
get equal hashes for certain; different ones practically always different hashes, and where the refinement cannot
tell two apart a leak check only becomes stricter.

E = puzzles in the batch, N = size of the grid.
"""

from __future__ import annotations

import numpy as np

from dataset.sudoku import BoxShape

# Odd 64-bit constants, one per role: equal for rows and columns would lose information, and need not be.
_CELL, _ROW, _COLUMN, _BOX, _DIGIT, _BAND, _STACK = np.random.Generator(np.random.Philox(2510)).integers(
    1, 2**63, 7, dtype=np.uint64
) * np.uint64(2) + np.uint64(1)
_CHUNK_CELLS = 1 << 15
_ROUNDS = 3  # a fourth separates no more puzzles, not even of 4x4


def invariant_hashes(puzzles: np.ndarray, solutions: np.ndarray, shape: BoxShape) -> np.ndarray:
    """(E,) uint64 hashes of (E, N²) puzzles and their solutions, both as values (0 = blank).

    Equal whenever two puzzles are images of each other under `dataset.sudoku.random_symmetries`.
    """
    step = max(1, _CHUNK_CELLS // shape.num_cells)
    hashes = np.empty(len(puzzles), np.uint64)
    for start in range(0, len(puzzles), step):
        part = slice(start, start + step)
        # Puzzles on the last axis: every operation below then runs along contiguous memory.
        given = np.ascontiguousarray(puzzles[part].T > 0).reshape(shape.size, shape.size, -1)
        solution = np.ascontiguousarray(solutions[part].T).reshape(given.shape)
        hashes[part] = _refined(given, solution, shape)
        if shape.square:
            # A transposition swaps the roles of rows and columns: both ways, combined without an order.
            hashes[part] += _refined(given.swapaxes(0, 1), solution.swapaxes(0, 1), shape)
    return hashes


def _refined(given: np.ndarray, solution: np.ndarray, shape: BoxShape) -> np.ndarray:
    """(E,) hashes of (N, N, E) masks and solutions after as many rounds as change anything in practice."""
    size, height, width = shape.size, shape.rows, shape.columns
    by_digit = np.argsort(solution.reshape(size * size, -1), axis=0, kind="stable")  # (N², E)
    digit = solution.reshape(size * size, -1).astype(np.int64) - 1
    colours = given.astype(np.uint64)
    for _ in range(_ROUNDS):
        mixed = _mixed(colours)
        rows = mixed.sum(1)  # (N, E)
        columns = mixed.sum(0)
        bands = _mixed(rows).reshape(width, height, -1).sum(1)
        stacks = _mixed(columns).reshape(height, width, -1).sum(1)
        boxes = mixed.reshape(width, height, height, width, -1).sum((1, 3))
        digits = np.take_along_axis(mixed.reshape(digit.shape), by_digit, 0).reshape(size, size, -1).sum(1)
        lines = _mixed(rows * _ROW + bands.repeat(height, 0) * _BAND)[:, None]
        lines = lines + _mixed(columns * _COLUMN + stacks.repeat(width, 0) * _STACK)[None]
        around = _mixed(boxes * _BOX).repeat(height, 0).repeat(width, 1)
        same_digit = np.take_along_axis(_mixed(digits * _DIGIT), digit, 0).reshape(colours.shape)
        colours = _mixed(colours * _CELL + lines + around + same_digit)
    return _mixed(_mixed(colours).sum((0, 1)))


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer: a bijection of uint64 in which every bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
