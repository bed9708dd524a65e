"""Hashes of Sudoku puzzles and solutions that are invariant under symmetries, to find leakage between splits.

Colour refinement (Weisfeiler-Leman) on a solved grid: cells start with a colour, which is repeatedly combined with the
multisets of colours in their row, column, box, digit, band and stack. For puzzles the first colours mark the given
cells. For solutions, which have none, they are derived from how rows, columns and digits permute each other.
Equivalent inputs always get equal hashes. Inequivalent ones get different hashes in practice; a collision would only
make a leakage check stricter.

Shapes: E grids, N side of the grid.
"""

from __future__ import annotations

import numpy as np

from dataset.families.sudoku.rules import BoxShape

# Odd 64-bit constants, one per role; equal ones for rows and columns would lose information.
_CELL, _ROW, _COLUMN, _BOX, _DIGIT, _BAND, _STACK = np.random.Generator(np.random.Philox(2510)).integers(
    1, 2**63, 7, dtype=np.uint64
) * np.uint64(2) + np.uint64(1)
_CHUNK_CELLS = 1 << 13
_ROUNDS = 3  # a fourth round distinguishes no more puzzles, not even for 4x4


def invariant_hashes(puzzles: np.ndarray, solutions: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Hash (E, N²) puzzles and their solutions, both as values (0 = blank), to (E,) uint64.

    Equal whenever two puzzles are images of each other under `dataset.families.sudoku.rules.random_symmetries`.
    """
    hashes = np.empty(len(puzzles), np.uint64)
    for part in _chunks(len(puzzles), shape):
        given = _cells_first(puzzles[part], shape) > 0
        solution = _cells_first(solutions[part], shape)
        hashes[part] = _refined(given.astype(np.uint64), solution, shape)
        if shape.square:
            # Transposing swaps the roles of rows and columns: hash both ways, and combine the hashes symmetrically.
            transposed = given.astype(np.uint64).swapaxes(0, 1)
            hashes[part] += _refined(transposed, solution.swapaxes(0, 1), shape)
    return hashes


def solution_hashes(solutions: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Hash (E, N²) full grids of values 1..N to (E,) uint64.

    Equal whenever two grids are images of each other under `dataset.families.sudoku.rules.random_symmetries`.
    """
    hashes = np.empty(len(solutions), np.uint64)
    for part in _chunks(len(solutions), shape):
        solution = _cells_first(solutions[part], shape)
        digits = solution.astype(np.intp) - 1  # of row r and column c
        columns = digits.argsort(axis=1)  # of row r and digit d
        rows = digits.argsort(axis=0)  # of digit d and column c
        of_row = _line_colours(digits, columns, shape.rows, shape.columns)
        of_column = _line_colours(digits.swapaxes(0, 1), rows.swapaxes(0, 1), shape.columns, shape.rows)
        by_row = _line_colours(columns.swapaxes(0, 1), rows, 1, shape.rows)  # of digits, as their rows say
        by_column = _line_colours(rows, columns.swapaxes(0, 1), 1, shape.columns)
        of_digit = np.stack([by_row, by_column])[:, solution - 1, np.arange(solution.shape[2])]
        colours = (
            of_row[:, None] * _ROW + of_column[None] * _COLUMN + of_digit[0] * _BAND + of_digit[1] * _STACK
        )
        hashes[part] = _refined(_mixed(colours), solution, shape)
        if shape.square:
            colours = (
                of_row[:, None] * _COLUMN
                + of_column[None] * _ROW
                + of_digit[0] * _STACK
                + of_digit[1] * _BAND
            )
            hashes[part] += _refined(_mixed(colours).swapaxes(0, 1), solution.swapaxes(0, 1), shape)
    return hashes


def _chunks(count: int, shape: BoxShape) -> list[slice]:
    step = max(1, _CHUNK_CELLS // shape.num_cells)
    return [slice(start, start + step) for start in range(0, count, step)]


def _cells_first(grids: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Reshape (E, N²) to (N, N, E), so that operations run along contiguous memory."""
    return np.ascontiguousarray(grids.T).reshape(shape.size, shape.size, -1)


def _line_colours(lines: np.ndarray, inverses: np.ndarray, group: int, point_group: int) -> np.ndarray:
    """Return colours (N, E) uint64 of N lines, given as permutations of 0..N-1 and their inverses, (N, N, E) intp.

    The colour of a line is a multiset over the permutations that map it to the other lines: the lengths of their
    cycles, and how these run through groups of points, such as stacks, independently of order and names. Each `group`
    lines, such as the rows of a band, and each `point_group` points form a group.
    """
    size, _, count = lines.shape
    first, second = np.triu_indices(size, k=1)
    # Permutations are stored as flat indices into the array of all of them, so that one `take` composes them all.
    offsets = (np.arange(len(first)) * (size * count))[:, None, None] + np.arange(count)
    step = np.take_along_axis(inverses[first], lines[second], 1) * count + offsets
    points = np.arange(size)[:, None] * count
    groups = points - points % (point_group * count)
    kinds = np.repeat(first // group == second // group, count).reshape(-1, count).astype(np.uint64)
    power = step
    # The number of fixed points of each power, up to half the size, determines the lengths of all cycles.
    for _ in range(size // 2):
        reached = power - offsets
        in_place = reached == points
        in_group = (reached - groups).view(np.uint64) < point_group * count  # negative ones wrap around
        for same in (in_place, in_group):
            kinds = kinds * np.uint64(size + 1) + same.sum(1, dtype=np.uint8)
        power = step.reshape(-1).take(power)
    kinds = _mixed(kinds * _CELL + _BOX)
    return _mixed(np.stack([kinds[(first == line) | (second == line)].sum(0) for line in range(size)]))


def _refined(colours: np.ndarray, solution: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Hash (N, N, E) colours and solutions to (E,) after `_ROUNDS` rounds of refinement."""
    size, height, width = shape.size, shape.rows, shape.columns
    by_digit = np.argsort(solution.reshape(size * size, -1), axis=0, kind="stable")  # (N², E)
    digit = solution.reshape(size * size, -1).astype(np.int64) - 1
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
    """Apply the finaliser of splitmix64, a bijection of uint64 in which every output bit depends on all input bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
