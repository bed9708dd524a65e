"""Derive Sudoku puzzles from given ones: replace one given cell such that the solution is unique again.

Such neighbours of a puzzle are about as hard as the puzzle itself, whereas puzzles with random given cells are easy
(the search for hard puzzles calls them {-1+1}). They may have another solution than the puzzle. All are found at once:
where one of the solutions of the puzzle without the removed cell is the only one with some value in some cell, that
value makes it unique.

Shapes: E puzzles, N side of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from dataset.families.sudoku.batch import all_solutions, solve_batch
from dataset.families.sudoku.overlap import leakage_keys
from dataset.families.sudoku.rules import BoxShape
from dataset.parallel import ordered_map

# Without one given cell, puzzles of few given cells have millions of solutions: neighbours by that cell are not sought.
MOST_SOLUTIONS = 2000
# Neighbours need at least this part of the puzzle's guesses (`SolverResult.guesses`).
LEAST_DIFFICULTY = 0.3
_BATCH = 8  # puzzles that a worker processes at a time
_RATED = 64  # neighbours whose guesses are counted at a time


# Puzzles and their solutions, (n, N²) uint8 each.
Pairs = tuple[np.ndarray, np.ndarray]


def with_neighbours(
    train: Pairs, test: Pairs, shape: BoxShape, most: int, seed: Sequence[int], workers: int
) -> Iterator[Pairs]:
    """Yield each train puzzle followed by up to `most` random neighbours of it, with their solutions.

    Neighbours that share a key (`leakage_keys`) with a test puzzle are left out. `workers` does not change the result.
    """
    of_test = [set(keys) for keys in leakage_keys(*test, shape, workers)]
    starts = range(0, len(train[0]), _BATCH)
    batches = ((start, train[0][start : start + _BATCH]) for start in starts)
    task = partial(_of_batch, shape, most, tuple(seed), of_test)
    parts = ordered_map(task, batches, min(workers, max(1, len(starts))))
    for index, found in enumerate(pairs for part in parts for pairs in part):
        puzzle, solution = (grids[index : index + 1] for grids in train)
        yield np.concatenate([puzzle, found[0]]), np.concatenate([solution, found[1]])


def _of_batch(
    shape: BoxShape, most: int, seed: tuple[int, ...], of_test: list[set], batch: tuple[int, np.ndarray]
) -> list[Pairs]:
    """Return the neighbours of each puzzle of the batch, of which the first has the given index."""
    first, puzzles = batch
    found = []
    for index, (puzzle, guesses) in enumerate(zip(puzzles, solve_batch(puzzles, shape).guesses, strict=True)):
        rng = np.random.default_rng([*seed, first + index])
        pairs = _of_puzzle(puzzle, shape, most, LEAST_DIFFICULTY * guesses, rng)
        leaks = np.zeros(len(pairs[0]), bool)
        if len(leaks):
            for keys, forbidden in zip(leakage_keys(*pairs, shape, 1), of_test, strict=True):
                leaks |= np.array([key in forbidden for key in keys])
        found.append((pairs[0][~leaks], pairs[1][~leaks]))
    return found


def _of_puzzle(
    puzzle: np.ndarray, shape: BoxShape, most: int, least_guesses: float, rng: np.random.Generator
) -> Pairs:
    """Return up to `most` neighbours of one puzzle (N²,) that need at least `least_guesses` guesses."""
    removed = np.flatnonzero(puzzle)
    reduced = np.repeat(puzzle[None], len(removed), axis=0)
    reduced[np.arange(len(removed)), removed] = 0
    owners, solutions = all_solutions(reduced, shape, MOST_SOLUTIONS)
    which, cells = _only_ones(owners, solutions, reduced)
    different = solutions[which, cells] != puzzle[cells]  # the removed cell itself is no neighbour
    order = rng.permutation(np.flatnonzero(different))
    which, cells = which[order], cells[order]
    found = reduced[owners[which]]
    found[np.arange(len(which)), cells] = solutions[which, cells]
    kept: list[np.ndarray] = []
    for start in range(0, len(found), _RATED):
        part = np.arange(start, min(start + _RATED, len(found)))
        rated = solve_batch(found[part], shape)
        kept.append(part[rated.guesses >= least_guesses])
        if sum(map(len, kept)) >= most:
            break
    chosen = np.concatenate([np.zeros(0, np.int64), *kept])[:most]
    return found[chosen], solutions[which[chosen]]


def _only_ones(
    owners: np.ndarray, solutions: np.ndarray, reduced: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of solutions (m, N²) and of blank cells whose values are unique among those of the same puzzle."""
    num_cells = solutions.shape[1]
    unique = np.zeros(solutions.shape, bool)
    ends = np.searchsorted(owners, np.arange(len(reduced) + 1))
    for start, end in pairwise(ends):  # one puzzle at a time, because the keys need much memory
        keys = solutions[start:end] * np.int64(num_cells) + np.arange(num_cells)
        unique[start:end] = np.bincount(keys.reshape(-1), minlength=1)[keys] == 1
    which, cells = np.nonzero(unique & (reduced[owners] == 0))
    return which, cells
