"""Sudoku solver for any box shape: backtracking with propagation of singles, counting solutions and guesses.

The state is one bitboard per digit: a Python integer with one bit per cell, set if the digit is still possible there.
Set operations on whole boards replace loops over cells; 16x16 boards are just longer integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np

from dataset.families.sudoku.rules import BoxShape, units


@dataclass(frozen=True)
class SolverResult:
    """Up to `limit` solutions, each N² values in reading order, and the number of guesses needed to find them.

    guesses: values tried at branches, that is when no cell and no unit has a single possibility left. With `limit` 2
    and one solution, this is the size of the proof of uniqueness and does not depend on the order in which values are
    tried; 0 means that singles alone solve the puzzle.
    """

    solutions: list[list[int]]
    guesses: int

    @property
    def unique(self) -> bool:
        return len(self.solutions) == 1


@overload
def solve(
    puzzle: Sequence[int] | np.ndarray,
    shape: BoxShape,
    *,
    limit: int = ...,
    excluded: tuple[int, int] | None = ...,
    order: Sequence[int] | None = ...,
    max_guesses: None = None,  # an unlimited search always has a result
) -> SolverResult: ...


@overload
def solve(
    puzzle: Sequence[int] | np.ndarray,
    shape: BoxShape,
    *,
    limit: int = ...,
    excluded: tuple[int, int] | None = ...,
    order: Sequence[int] | None = ...,
    max_guesses: int | None,
) -> SolverResult | None: ...


def solve(
    puzzle: Sequence[int] | np.ndarray,
    shape: BoxShape,
    *,
    limit: int = 2,
    excluded: tuple[int, int] | None = None,
    order: Sequence[int] | None = None,
    max_guesses: int | None = None,
) -> SolverResult | None:
    """Find up to `limit` solutions of a puzzle of N² values (0 = blank); two disprove uniqueness.

    excluded: a (cell, value) that solutions must not have. order: the order in which values 1..N are tried (default:
    ascending). Returns None if more than `max_guesses` are needed.
    """
    search = _Search(_board(shape), limit, order, max_guesses)
    state = search.board.place(np.asarray(puzzle).reshape(-1).tolist())
    if state is not None:
        if excluded is not None:
            cell, value = excluded
            state[0][value - 1] &= ~(1 << cell)
        search.run(*state)
    if search.exhausted:
        return None
    return SolverResult([search.board.values(placed) for placed in search.found], search.guesses)


class _Board:
    """Masks of one box shape: the units, and for each cell (keyed by its bit) all cells except itself and its peers."""

    def __init__(self, shape: BoxShape) -> None:
        self.size = shape.size
        self.full = (1 << shape.num_cells) - 1
        self.units = [sum(1 << cell for cell in unit) for unit in units(shape).tolist()]
        self.keep = {}
        for cell in range(shape.num_cells):
            bit = 1 << cell
            seen = 0
            for unit in self.units:
                if unit & bit:
                    seen |= unit
            self.keep[bit] = self.full & ~seen

    def place(self, puzzle: list[int]) -> tuple[list[int], list[int], int] | None:
        """Return (candidate boards of the free cells, boards of placed values, free cells); None if givens conflict."""
        candidates = [self.full] * self.size
        placed = [0] * self.size
        for cell, value in enumerate(puzzle):
            if value:
                bit = 1 << cell
                if not candidates[value - 1] & bit:
                    return None
                candidates[value - 1] &= self.keep[bit]
                placed[value - 1] |= bit
        free = self.full
        for board in placed:
            free &= ~board
        return [board & free for board in candidates], placed, free

    def values(self, placed: list[int]) -> list[int]:
        values = [0] * self.full.bit_length()
        for value, board in enumerate(placed, start=1):
            while board:
                bit = board & -board
                values[bit.bit_length() - 1] = value
                board ^= bit
        return values


@lru_cache
def _board(shape: BoxShape) -> _Board:
    return _Board(shape)


class _Search:
    """Depth-first search over states (candidates, placed, free) of a `_Board`."""

    def __init__(
        self, board: _Board, limit: int, order: Sequence[int] | None, max_guesses: int | None
    ) -> None:
        self.board = board
        self.limit = limit
        self.order = [value - 1 for value in order] if order is not None else list(range(board.size))
        self.max_guesses = max_guesses
        self.guesses = 0
        self.exhausted = False
        self.found: list[list[int]] = []

    def run(self, candidates: list[int], placed: list[int], free: int) -> None:
        left = self.propagate(candidates, placed, free)
        if left is None:
            return
        if not left:
            self.found.append(placed)
            return
        cell = self.branching_cell(candidates)
        keep = self.board.keep[cell]
        for digit in self.order:
            if not candidates[digit] & cell:
                continue
            if self.guesses == self.max_guesses:
                self.exhausted = True
            if self.exhausted or len(self.found) >= self.limit:
                return
            self.guesses += 1
            narrowed = [board & ~cell for board in candidates]
            narrowed[digit] &= keep
            filled = placed.copy()
            filled[digit] |= cell
            self.run(narrowed, filled, left ^ cell)

    def propagate(self, candidates: list[int], placed: list[int], free: int) -> int | None:
        """Place singles, in place, until none is left; return the free cells, None for a contradiction."""
        while free:
            once = twice = 0  # cells with at least one, at least two candidates
            for board in candidates:
                twice |= once & board
                once |= board
            if once != free:
                return None
            singles = once ^ twice
            if singles:
                free ^= singles
                if not self.place_naked(candidates, placed, singles):
                    return None
            else:
                left = self.place_hidden(candidates, placed, free)
                if left is None or left == free:
                    return left
                free = left
        return free

    def place_naked(self, candidates: list[int], placed: list[int], singles: int) -> bool:
        """Place all cells of `singles`, which have one candidate each; return False if two of them conflict."""
        keep = self.board.keep
        for digit, board in enumerate(candidates):
            cells = board & singles
            if cells:
                placed[digit] |= cells
                while cells:
                    bit = cells & -cells
                    cells ^= bit
                    board &= keep[bit]
                    if cells & ~board:
                        return False
                candidates[digit] = board
        return True

    def place_hidden(self, candidates: list[int], placed: list[int], free: int) -> int | None:
        """Place digits with one cell left in a unit; return the free cells, None if a digit has no cell left."""
        keep = self.board.keep
        for digit in range(self.board.size):
            board = candidates[digit]
            for unit in self.board.units:
                cells = board & unit
                if not cells:
                    if not placed[digit] & unit:
                        return None
                elif not cells & (cells - 1):
                    board &= keep[cells]
                    for other in range(self.board.size):
                        candidates[other] &= ~cells
                    candidates[digit] = board
                    placed[digit] |= cells
                    free ^= cells
        return free

    def branching_cell(self, candidates: list[int]) -> int:
        """Return the bit of the first cell with the fewest candidates (all have at least two)."""
        at_least = [0] * (self.board.size + 2)  # cells with at least that many candidates
        for count, board in enumerate(candidates):
            for level in range(count, 0, -1):
                at_least[level + 1] |= at_least[level] & board
            at_least[1] |= board
        for level in range(2, self.board.size + 1):
            exactly = at_least[level] & ~at_least[level + 1]
            if exactly:
                return exactly & -exactly
        raise AssertionError("branching without a free cell")
