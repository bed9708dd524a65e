"""Vectorised version of the solver in `search.py`, to check and rate many puzzles.

It follows the same rules and counts the same guesses: a search for all solutions explores the same tree in any order,
so open positions of all puzzles are propagated together, 20 times as fast as one by one on hard puzzles. A single
position is slower than in `search.py`, which is therefore used to generate puzzles.

Shapes: E puzzles, n positions processed together, N side of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from dataset.families.sudoku.rules import BoxShape, units
from dataset.families.sudoku.search import solve
from dataset.parallel import ordered_map

_POSITIONS = 2048  # enough to vectorise over, few enough to stay in the CPU's caches
# Puzzles that a worker solves at a time: enough to outweigh the cost of starting it.
_BATCH = 300
# Limits of the check whether puzzles of a source have several solutions.
MOST_PUZZLES_TO_CHECK = 2000
_MOST_GUESSES_TO_CHECK = 20_000
_DEEP_GUESSES_PER_CELL = 4  # with many solutions, two are found in one or two guesses per cell
_POPULATION = (
    np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1, dtype=np.uint8)
)
# Candidates (N², n) of each cell as bits, and the index (n,) of the puzzle of each position.
_Positions = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class BatchResult:
    """num_solutions (E,): 0, 1 or 2 (for 2 or more); solutions (E, N²) uint8, one per solvable puzzle; guesses (E,).

    guesses are counted as in `SolverResult`; for puzzles with several solutions, until two were found. num_solutions
    is -1 for puzzles that exceeded the limit of guesses.
    """

    num_solutions: np.ndarray
    solutions: np.ndarray
    guesses: np.ndarray


def solve_all(
    puzzles: np.ndarray, shape: BoxShape, workers: int, *, max_guesses: int | None = None
) -> BatchResult:
    """Solve (E, N²) puzzles on several processes, in order; see `solve_batch`."""
    batches = [puzzles[start : start + _BATCH] for start in range(0, len(puzzles), _BATCH)]
    solve = partial(solve_batch, shape=shape, max_guesses=max_guesses)
    results = list(ordered_map(solve, batches, min(workers, len(batches))))
    fields = ("num_solutions", "solutions", "guesses")
    return BatchResult(*(np.concatenate([getattr(result, name) for result in results]) for name in fields))


def ambiguous_notes(
    puzzles: np.ndarray, what: str, shape: BoxShape, workers: int, total: int | None = None
) -> list[str]:
    """Return notes about puzzles among (E, N²) with several solutions; empty if there are none.

    At most 2,000 evenly spaced puzzles are checked, each with a limited number of guesses. total: the number of puzzles
    of which the given ones are a sample.
    """
    chosen = np.unique(np.linspace(0, len(puzzles) - 1, MOST_PUZZLES_TO_CHECK).astype(np.int64))
    total = len(puzzles) if total is None else total
    counts = solve_all(puzzles[chosen], shape, workers, max_guesses=_MOST_GUESSES_TO_CHECK).num_solutions
    # Perhaps with so many solutions that breadth-first search completes none.
    for i in np.flatnonzero(counts < 0):
        deep = solve(puzzles[chosen[i]], shape, max_guesses=_DEEP_GUESSES_PER_CELL * shape.num_cells)
        if deep is not None:
            counts[i] = len(deep.solutions)
    among = f"{len(chosen):,} {what}"
    if len(chosen) < total:
        among = f"{len(chosen):,} checked of {total:,} {what}"
    several, unknown = int((counts > 1).sum()), int((counts < 0).sum())
    notes = [f"{several:,} of {among} have more than one solution"] if several else []
    if unknown:
        notes.append(f"{unknown:,} of {among} need too many guesses to tell whether they have one solution")
    return notes


def solve_batch(puzzles: np.ndarray, shape: BoxShape, max_guesses: int | None = None) -> BatchResult:
    """Solve (E, N²) puzzles of values (0 = blank); give up on a puzzle after `max_guesses` guesses."""
    result = BatchResult(
        np.zeros(len(puzzles), np.int64), np.zeros(puzzles.shape, np.uint8), np.zeros(len(puzzles), np.int32)
    )
    # The newest positions are processed first, which bounds their number.
    stack = [_open_positions(puzzles, shape)]
    while stack:
        candidates, owners = _pop(stack)
        if max_guesses is not None:
            hopeless = (result.guesses[owners] > max_guesses) & (result.num_solutions[owners] < 2)
            result.num_solutions[owners[hopeless]] = -1
        unsettled = np.isin(result.num_solutions[owners], (0, 1))
        candidates, owners = _propagate(*_select(unsettled, candidates, owners), shape)
        counts = _population(candidates)
        solved = (counts == 1).all(axis=0)
        _record(result, *_select(solved, candidates, owners))
        tried = _branch(stack, *_select(~solved, candidates, owners), counts.compress(~solved, axis=1))
        np.add.at(result.guesses, tried, 1)
    return result


def all_solutions(puzzles: np.ndarray, shape: BoxShape, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Find all solutions of (E, N²) puzzles of values (0 = blank), except of puzzles with more than `most` of them.

    Returns the puzzle (m,) int64 that each solution belongs to, ascending, and the solutions (m, N²) uint8 in the order
    in which the search finds them.
    """
    count = np.zeros(len(puzzles), np.int64)
    solved_owners, solutions = [np.zeros(0, np.int64)], [np.zeros((0, shape.num_cells), np.uint8)]
    stack = [_open_positions(puzzles, shape)]
    while stack:
        candidates, owners = _pop(stack)
        candidates, owners = _propagate(*_select(count[owners] <= most, candidates, owners), shape)
        counts = _population(candidates)
        solved = (counts == 1).all(axis=0)
        solved_owners.append(owners[solved])
        solutions.append(_values(candidates.compress(solved, axis=1)))
        np.add.at(count, owners[solved], 1)
        _branch(stack, *_select(~solved, candidates, owners), counts.compress(~solved, axis=1))
    every = np.concatenate(solved_owners)
    kept = np.flatnonzero(count[every] <= most)
    kept = kept[np.argsort(every[kept], kind="stable")]
    return every[kept], np.concatenate(solutions)[kept]


def _open_positions(puzzles: np.ndarray, shape: BoxShape) -> _Positions:
    """Return the first positions of a search.

    Candidate masks (N², n), cells first so that operations run along positions, and the puzzle (n,) of each.
    """
    bits = np.uint16 if shape.size <= 16 else np.uint32
    masks = np.concatenate([[(1 << shape.size) - 1], 1 << np.arange(shape.size)]).astype(bits)
    return np.ascontiguousarray(masks[puzzles].T), np.arange(len(puzzles))


def _values(candidates: np.ndarray) -> np.ndarray:
    """Return the values (n, N²) uint8 of solved positions (N², n)."""
    return np.log2(candidates.T.astype(np.float32)).astype(np.uint8) + 1


def _population(masks: np.ndarray) -> np.ndarray:
    """Count the set bits of each mask."""
    if masks.dtype == np.uint16:
        return _POPULATION[masks]
    return _POPULATION[masks & 0xFFFF] + _POPULATION[masks >> 16]


def _select(chosen: np.ndarray, candidates: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Select the positions with `chosen` (n,). Indexing `candidates[:, chosen]` would give a slower memory layout."""
    return candidates.compress(chosen, axis=1), owners[chosen]


def _pop(stack: list[_Positions]) -> tuple[np.ndarray, np.ndarray]:
    """Take the newest open positions, up to the number processed together."""
    parts, total = [], 0
    while stack and total < _POSITIONS:
        candidates, owners = stack.pop()
        keep = len(owners) - max(0, total + len(owners) - _POSITIONS)
        if keep < len(owners):
            stack.append((candidates[:, :-keep], owners[:-keep]))
        parts.append((candidates[:, -keep:], owners[-keep:]))
        total += keep
    return _joined(parts)


def _joined(parts: list[_Positions]) -> tuple[np.ndarray, np.ndarray]:
    candidates, owners = zip(*parts, strict=True)
    return np.concatenate(candidates, axis=1), np.concatenate(owners)


def _record(result: BatchResult, candidates: np.ndarray, owners: np.ndarray) -> None:
    """Add solved positions (N², n) to the result."""
    if len(owners):
        result.solutions[owners] = _values(candidates)
        np.add.at(result.num_solutions, owners, 1)
        np.minimum(result.num_solutions, 2, out=result.num_solutions)


def _branch(
    stack: list[_Positions], candidates: np.ndarray, owners: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Push successors of positions (N², n): one for each candidate of the first cell with the fewest candidates.

    Returns the puzzle that each successor belongs to.
    """
    if not len(owners):
        return owners
    cell = np.where(counts == 1, 255, counts).argmin(axis=0)
    mask = candidates[cell, np.arange(len(owners))]
    values, parents = np.nonzero(mask >> np.arange(mask.dtype.itemsize * 8, dtype=mask.dtype)[:, None] & 1)
    tried = candidates.take(parents, axis=1)
    tried[cell[parents], np.arange(len(parents))] = (1 << values).astype(mask.dtype)
    stack.append((tried, owners[parents]))
    return owners[parents]


def _propagate(candidates: np.ndarray, owners: np.ndarray, shape: BoxShape) -> tuple[np.ndarray, np.ndarray]:
    """Place all singles of positions (N², n), and drop positions with a contradiction."""
    finished = []
    while len(owners):
        narrowed, possible = _place_singles(candidates, shape)
        changed = (narrowed != candidates).any(axis=0)
        finished.append(_select(possible & ~changed, narrowed, owners))
        candidates, owners = _select(possible & changed, narrowed, owners)
    return _joined(finished) if finished else (candidates, owners)


def _place_singles(candidates: np.ndarray, shape: BoxShape) -> tuple[np.ndarray, np.ndarray]:
    """Run one round for all positions; return narrowed candidates (N², n), and (n,) True without a contradiction."""
    every = (1 << shape.size) - 1
    unit_cells = units(shape)
    single = (candidates & (candidates - 1)) == 0
    placed = candidates * single
    size = (len(unit_cells), candidates.shape[1])
    once, twice, taken, clashing = (np.zeros(size, candidates.dtype) for _ in range(4))
    for cells in unit_cells.T:  # the k-th cell of every unit
        possible = candidates[cells]
        twice |= once & possible
        once |= possible
        here = placed[cells]
        clashing |= taken & here
        taken |= here
    only = once & ~twice & ~taken  # values with a single cell left in the unit
    row, column, box = _units_of_cells(shape)
    blocked = taken[row] | taken[column] | taken[box]
    forced = (only[row] | only[column] | only[box]) & candidates
    narrowed = candidates & ~(blocked * ~single)
    narrowed = np.where(forced == 0, narrowed, narrowed & forced)
    # A cell that is the only one left for two values is a contradiction: forced has two bits.
    broken = (narrowed == 0) | ((forced & (forced - 1)) != 0)
    return narrowed, (once == every).all(axis=0) & ~clashing.any(axis=0) & ~broken.any(axis=0)


@lru_cache
def _units_of_cells(shape: BoxShape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices in `units(shape)` of the row, column and box of each cell, (N²,) each."""
    unit_of = np.argsort(units(shape).reshape(3, -1), axis=1) // shape.size
    return tuple(unit_of + np.arange(3)[:, None] * shape.size)
