"""The solver of `sudoku_solve.py` for many puzzles at once, vectorised: what checking and rating a dataset needs.

Same rules, same counts: searching for all solutions explores the same tree in any order, so open positions of
all puzzles are propagated together, 20 times as fast as one by one on hard puzzles. One position costs more
here, so digging out a single puzzle is the other solver's work.

E = puzzles, n = positions handled together, N = size of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from dataset.families.sudoku.rules import BoxShape, units
from dataset.families.sudoku.solve import solve
from dataset.parallel import ordered_map

_POSITIONS = 2048  # enough to vectorise over, few enough to stay in the CPU's caches
# Puzzles that one worker solves at a time: enough to make up for starting it.
_BATCH = 300
# What is enough to tell whether the puzzles of a source have several solutions.
MOST_PUZZLES_TO_CHECK = 2000
_MOST_GUESSES_TO_CHECK = 20_000
_DEEP_GUESSES_PER_CELL = 4  # a grid with many solutions is filled twice in a guess or two a cell
_POPULATION = np.array([bin(mask).count("1") for mask in range(1 << 16)], np.uint8)
# Candidates (N², n) of each cell as bits, and the puzzle (n,) that each of the positions is of.
_Positions = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class BatchResult:
    """num_solutions (E,): 0, 1 or 2 for more; solutions (E, N²) uint8, one of each solvable puzzle's; guesses (E,).

    guesses are those of `SolverResult`; of a puzzle with several solutions, those until two were found. num_solutions
    is -1 for a puzzle that took more guesses than were allowed.
    """

    num_solutions: np.ndarray
    solutions: np.ndarray
    guesses: np.ndarray


def solve_all(
    puzzles: np.ndarray, shape: BoxShape, workers: int, *, max_guesses: int | None = None
) -> BatchResult:
    """Solves (E, N²) puzzles on several processes, in order; see `solve_batch`."""
    batches = [puzzles[start : start + _BATCH] for start in range(0, len(puzzles), _BATCH)]
    solve = partial(solve_batch, shape=shape, max_guesses=max_guesses)
    results = list(ordered_map(solve, batches, min(workers, len(batches))))
    fields = ("num_solutions", "solutions", "guesses")
    return BatchResult(*(np.concatenate([getattr(result, name) for result in results]) for name in fields))


def ambiguous_notes(
    puzzles: np.ndarray, what: str, shape: BoxShape, workers: int, total: int | None = None
) -> list[str]:
    """What there is to say about (E, N²) puzzles that have several solutions; nothing if none has.

    At most 2,000 puzzles spread over all of them are looked at, and each only up to a number of guesses. total: of
    how many the given ones are a sample.
    """
    chosen = np.unique(np.linspace(0, len(puzzles) - 1, MOST_PUZZLES_TO_CHECK).astype(np.int64))
    total = len(puzzles) if total is None else total
    counts = solve_all(puzzles[chosen], shape, workers, max_guesses=_MOST_GUESSES_TO_CHECK).num_solutions
    for i in np.flatnonzero(counts < 0):  # so many solutions, perhaps, that a search in breadth finishes none
        deep = solve(puzzles[chosen[i]], shape, max_guesses=_DEEP_GUESSES_PER_CELL * shape.num_cells)
        if deep is not None:
            counts[i] = len(deep.solutions)
    among = f"{len(chosen):,} {what}"
    if len(chosen) < total:
        among = f"{len(chosen):,} checked of {total:,} {what}"
    several, unknown = int((counts > 1).sum()), int((counts < 0).sum())
    notes = [f"{several:,} of {among} have more than one solution"] if several else []
    if unknown:
        notes.append(
            f"whether {unknown:,} of {among} have one solution is not known, as they need too many guesses"
        )
    return notes


def solve_batch(puzzles: np.ndarray, shape: BoxShape, max_guesses: int | None = None) -> BatchResult:
    """Solves (E, N²) puzzles of values (0 = blank); gives up on one after `max_guesses` guesses."""
    result = BatchResult(
        np.zeros(len(puzzles), np.int64), np.zeros(puzzles.shape, np.uint8), np.zeros(len(puzzles), np.int32)
    )
    bits = np.uint16 if shape.size <= 16 else np.uint32
    masks = np.concatenate([[(1 << shape.size) - 1], 1 << np.arange(shape.size)]).astype(bits)
    # Open positions: candidate masks (N², n), cells first so that operations run along positions, and the
    # puzzle (n,) that each belongs to. The newest ones go first, which bounds how many there are.
    stack = [(np.ascontiguousarray(masks[puzzles].T), np.arange(len(puzzles)))]
    while stack:
        candidates, owners = _pop(stack)
        if max_guesses is not None:
            hopeless = (result.guesses[owners] > max_guesses) & (result.num_solutions[owners] < 2)
            result.num_solutions[owners[hopeless]] = -1
        unsettled = np.isin(result.num_solutions[owners], (0, 1))
        candidates, owners = _propagate(*_those(unsettled, candidates, owners), shape)
        counts = _population(candidates)
        solved = (counts == 1).all(axis=0)
        _record(result, *_those(solved, candidates, owners))
        _branch(result, stack, *_those(~solved, candidates, owners), counts.compress(~solved, axis=1))
    return result


def _population(masks: np.ndarray) -> np.ndarray:
    """How many bits of each mask are set."""
    if masks.dtype == np.uint16:
        return _POPULATION[masks]
    return _POPULATION[masks & 0xFFFF] + _POPULATION[masks >> 16]


def _those(chosen: np.ndarray, candidates: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chosen (n,) positions. `candidates[:, chosen]` would lay them out the other way, for slow operations."""
    return candidates.compress(chosen, axis=1), owners[chosen]


def _pop(stack: list[_Positions]) -> tuple[np.ndarray, np.ndarray]:
    """The newest open positions, as many as are worked on together."""
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
    """Enters solved positions (N², n) into the result."""
    if len(owners):
        values = np.log2(candidates.T.astype(np.float32)).astype(np.uint8) + 1
        result.solutions[owners] = values
        np.add.at(result.num_solutions, owners, 1)
        np.minimum(result.num_solutions, 2, out=result.num_solutions)


def _branch(
    result: BatchResult,
    stack: list[_Positions],
    candidates: np.ndarray,
    owners: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Pushes the positions (N², n) with each value of their first cell of the fewest candidates tried."""
    if not len(owners):
        return
    cell = np.where(counts == 1, 255, counts).argmin(axis=0)
    mask = candidates[cell, np.arange(len(owners))]
    values, parents = np.nonzero(mask >> np.arange(mask.dtype.itemsize * 8, dtype=mask.dtype)[:, None] & 1)
    np.add.at(result.guesses, owners[parents], 1)
    tried = candidates.take(parents, axis=1)
    tried[cell[parents], np.arange(len(parents))] = (1 << values).astype(mask.dtype)
    stack.append((tried, owners[parents]))


def _propagate(candidates: np.ndarray, owners: np.ndarray, shape: BoxShape) -> tuple[np.ndarray, np.ndarray]:
    """The positions (N², n) with all singles placed, those with a contradiction left out."""
    finished = []
    while len(owners):
        narrowed, possible = _place_singles(candidates, shape)
        changed = (narrowed != candidates).any(axis=0)
        finished.append(_those(possible & ~changed, narrowed, owners))
        candidates, owners = _those(possible & changed, narrowed, owners)
    return _joined(finished) if finished else (candidates, owners)


def _place_singles(candidates: np.ndarray, shape: BoxShape) -> tuple[np.ndarray, np.ndarray]:
    """One round for all positions: (N², n) narrowed candidates, and (n,) which show no contradiction."""
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
    only = once & ~twice & ~taken  # values with a single place left in the unit
    row, column, box = _units_of_cells(shape)
    blocked = taken[row] | taken[column] | taken[box]
    wanted = (only[row] | only[column] | only[box]) & candidates
    narrowed = candidates & ~(blocked * ~single)
    narrowed = np.where(wanted == 0, narrowed, narrowed & wanted)
    # A cell that is the only place of two values contradicts itself: wanted has two bits.
    broken = (narrowed == 0) | ((wanted & (wanted - 1)) != 0)
    return narrowed, (once == every).all(axis=0) & ~clashing.any(axis=0) & ~broken.any(axis=0)


@lru_cache
def _units_of_cells(shape: BoxShape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N²,) each: which row, column and box of `units(shape)` a cell is in."""
    unit_of = np.argsort(units(shape).reshape(3, -1), axis=1) // shape.size
    return tuple(unit_of + np.arange(3)[:, None] * shape.size)
