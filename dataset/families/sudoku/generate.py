"""Generate Sudoku puzzles: remove cells from random full grids as long as the solution stays unique.

Candidate i of a split is a pure function of (seed, split, i), and candidates are accepted in that order: the
result does not depend on the number of workers, and the train split does not depend on the size of the test split.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from dataset.families.sudoku.hashes import invariant_hashes, solution_hashes
from dataset.families.sudoku.rules import BoxShape
from dataset.families.sudoku.search import solve
from dataset.parallel import ordered_map
from utils.errors import UserError

# Below this size there are too few inequivalent puzzles (4x4: 4,710) for splits that are disjoint up to symmetry.
SMALLEST_INEQUIVALENT_SIZE = 6
# Below this size the same holds for solutions: there are 2 inequivalent ones of 4x4 and 49 of 6x6.
SMALLEST_SIZE_OF_MANY_SOLUTIONS = 8
# Above this size, searches for a full grid nearly always run into a dead end.
LARGEST_GENERATED_SIZE = 16
# With large boxes a search may run into a dead end; then restart instead of searching exhaustively.
_MAX_FILL_GUESSES = 2000
_MAX_TRIES = 1000
_MAX_REJECTED_IN_A_ROW = 5000


@dataclass(frozen=True)
class PuzzleSpec:
    """Kind of puzzles to generate: at most `clues` given cells, none of them redundant if `minimal`.

    Without `minimal`, cells are removed until exactly `clues` are left.
    """

    shape: BoxShape
    clues: int
    minimal: bool = False

    def __post_init__(self) -> None:
        if self.shape.size > LARGEST_GENERATED_SIZE:
            raise UserError(
                f"{self.shape.size}x{self.shape.size} puzzles cannot be generated, only sizes up to "
                f"{LARGEST_GENERATED_SIZE}x{LARGEST_GENERATED_SIZE}: read them from a file (--source-csv)"
            )


@dataclass(frozen=True)
class GeneratedPuzzles:
    """puzzles, solutions (E, N²) uint8 values; guesses (E,) as in `SolverResult`; invariant hashes (E,)."""

    puzzles: np.ndarray
    solutions: np.ndarray
    guesses: np.ndarray
    hashes: np.ndarray


def default_clues(shape: BoxShape) -> int:
    """Return a number of given cells that is reached quickly: 6 for 4x4, 14 for 6x6, 32 for 9x9, 128 for 16x16."""
    return round(shape.num_cells * (0.4 if shape.size <= 9 else 0.5))


def random_solution(rng: np.random.Generator, shape: BoxShape) -> np.ndarray:
    """Return the values (N²,) uint8 of a random full grid; every grid is possible, but not all are equally likely."""
    while True:
        start = np.zeros(shape.num_cells, np.uint8)
        start[: shape.size] = rng.permutation(shape.size) + 1
        order = (rng.permutation(shape.size) + 1).tolist()
        found = solve(start, shape, limit=1, order=order, max_guesses=_MAX_FILL_GUESSES)
        if found is not None:
            return np.array(found.solutions[0], np.uint8)


def random_puzzle(rng: np.random.Generator, spec: PuzzleSpec) -> tuple[np.ndarray, np.ndarray]:
    """Generate a puzzle with exactly one solution; return the puzzle and the solution, (N²,) uint8 values each.

    Raises `UserError` if `spec.clues` is not reached in many tries.
    """
    for _ in range(_MAX_TRIES):
        solution = random_solution(rng, spec.shape)
        puzzle = _remove_cells(rng, solution, spec)
        if np.count_nonzero(puzzle) <= spec.clues:
            return puzzle, solution
    raise UserError(
        f"no {spec.shape.size}x{spec.shape.size} puzzle with at most {spec.clues} given cells and one solution "
        f"was found in {_MAX_TRIES} tries: raise --clues"
    )


def generate_split(
    spec: PuzzleSpec,
    num_puzzles: int,
    *,
    seed: int,
    split: int,
    workers: int,
    excluded: GeneratedPuzzles | None = None,
) -> GeneratedPuzzles:
    """Generate `num_puzzles` different puzzles, from 6x6 up inequivalent ones.

    split: selects a stream of the seed. excluded: puzzles of another split, which are not repeated; from 6x6 up,
    equivalent puzzles and puzzles with the same solution are excluded too, and from 8x8 up puzzles with an equivalent
    solution.
    """
    up_to_symmetry = spec.shape.size >= SMALLEST_INEQUIVALENT_SIZE
    seen: set[Hashable] = set()
    solutions: set[Hashable] = set()
    if excluded is not None:
        seen = set(_keys(excluded, up_to_symmetry))
        solutions = set(_solution_keys(excluded.solutions, spec.shape))
    accepted, num_accepted, rejected = [], 0, 0
    for candidates in _candidates(spec, seed, split, workers):
        chosen = []
        keys = _keys(candidates, up_to_symmetry)
        taken = [False] * len(keys)
        if solutions:
            taken = [solution in solutions for solution in _solution_keys(candidates.solutions, spec.shape)]
        for index, key in enumerate(keys):
            if key in seen or taken[index]:
                rejected += 1
            elif num_accepted < num_puzzles:
                seen.add(key)
                chosen.append(index)
                num_accepted += 1
                rejected = 0
        accepted.append(_take(candidates, chosen))
        if num_accepted == num_puzzles:
            return _join(accepted)
        if rejected > _MAX_REJECTED_IN_A_ROW:
            raise UserError(
                f"only {num_accepted} of {num_puzzles} different {spec.shape.size}x{spec.shape.size} puzzles with "
                f"at most {spec.clues} given cells were found: generate fewer, or raise --clues"
            )
    raise AssertionError("candidates never end")


def _remove_cells(rng: np.random.Generator, solution: np.ndarray, spec: PuzzleSpec) -> np.ndarray:
    """Remove cells in random order as long as the solution stays unique."""
    puzzle = solution.copy()
    given = len(puzzle)
    for cell in rng.permutation(len(puzzle)).tolist():
        if given <= spec.clues and not spec.minimal:
            break
        value = int(puzzle[cell])
        puzzle[cell] = 0
        # Cheaper than counting solutions: search for one with another value in this cell.
        if solve(puzzle, spec.shape, limit=1, excluded=(cell, value)).solutions:
            puzzle[cell] = value  # still needed later, when fewer cells are given
        else:
            given -= 1
    return puzzle


def _candidates(spec: PuzzleSpec, seed: int, split: int, workers: int) -> Iterator[GeneratedPuzzles]:
    """Yield batches of candidates without end; the batch size does not affect them."""
    size = max(1, 2000 // spec.shape.num_cells)
    batches = (range(start, start + size) for start in count(0, size))
    return ordered_map(partial(_make_batch, spec, seed, split), batches, workers)


def _make_batch(spec: PuzzleSpec, seed: int, split: int, indices: range) -> GeneratedPuzzles:
    made = [random_puzzle(np.random.default_rng([seed, split, index]), spec) for index in indices]
    puzzles, solutions = (np.stack(grids) for grids in zip(*made, strict=True))
    results = [solve(puzzle, spec.shape) for puzzle in puzzles]
    assert all(result.unique for result in results), "a generated puzzle has no single solution"
    guesses = np.array([result.guesses for result in results], np.int32)
    return GeneratedPuzzles(puzzles, solutions, guesses, invariant_hashes(puzzles, solutions, spec.shape))


def _keys(puzzles: GeneratedPuzzles, up_to_symmetry: bool) -> list[Hashable]:
    """Return keys that must differ between any two puzzles."""
    return puzzles.hashes.tolist() if up_to_symmetry else [row.tobytes() for row in puzzles.puzzles]


def _solution_keys(solutions: np.ndarray, shape: BoxShape) -> list[Hashable]:
    """Return keys that must differ between the solutions of two splits; none for 4x4, which has only 288 solutions."""
    if shape.size >= SMALLEST_SIZE_OF_MANY_SOLUTIONS:
        return solution_hashes(solutions, shape).tolist()
    return [row.tobytes() for row in solutions] if shape.size >= SMALLEST_INEQUIVALENT_SIZE else []


def _take(puzzles: GeneratedPuzzles, indices: list[int]) -> GeneratedPuzzles:
    return GeneratedPuzzles(
        *(array[indices] for array in (puzzles.puzzles, puzzles.solutions, puzzles.guesses, puzzles.hashes))
    )


def _join(parts: list[GeneratedPuzzles]) -> GeneratedPuzzles:
    fields = ("puzzles", "solutions", "guesses", "hashes")
    return GeneratedPuzzles(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))
