"""Measure overlap of Sudoku splits, also up to symmetry, and split puzzles without overlap.

Shapes: E puzzles, N side of the grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dataset.families.sudoku.generate import SMALLEST_INEQUIVALENT_SIZE, SMALLEST_SIZE_OF_MANY_SOLUTIONS
from dataset.families.sudoku.hashes import invariant_hashes, solution_hashes
from dataset.families.sudoku.rules import BoxShape
from dataset.parallel import ordered_map
from utils.errors import UserError

# Number of puzzles hashed by a worker or compared at a time.
_BATCH = 18_000


def overlap(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], shape: BoxShape, workers: int
) -> dict[str, int]:
    """Count test puzzles whose puzzle or solution occurs in train, literally and up to symmetry.

    train, test: (E, N²) puzzles and solutions.
    """
    train_hashes, test_hashes = (_hashes(*split, shape, workers) for split in (train, test))
    shared = [
        int(np.isin(ours, others).sum()) for ours, others in zip(test_hashes, train_hashes, strict=True)
    ]
    return {
        "puzzles": num_contained(test[0], train[0]),
        "solutions": num_contained(test[1], train[1]),
        "equivalent_puzzles": shared[0],
        "equivalent_solutions": shared[1],
    }


def num_contained(rows: np.ndarray, others: np.ndarray) -> int:
    """Count the (E, cells) rows that occur among the others."""
    keys = row_keys(rows)
    different, found = set(keys), set()
    for start in range(0, len(others), _BATCH):  # in parts, because millions of Python keys need much memory
        found |= different.intersection(row_keys(others[start : start + _BATCH]))
    return sum(key in found for key in keys)


def row_keys(rows: np.ndarray) -> list[bytes]:
    """Return the bytes of each (E, cells) uint8 row."""
    rows = np.ascontiguousarray(rows, np.uint8)
    return rows.view(f"V{rows.shape[1]}").reshape(-1).tolist()


def related_groups(puzzles: np.ndarray, solutions: np.ndarray, shape: BoxShape, workers: int) -> np.ndarray:
    """Return the group number (E,) of each puzzle; puzzles of one group leak each other and must be in one split.

    They are connected by equal `leakage_keys`.
    """
    keys = [_numbered(key) for key in leakage_keys(puzzles, solutions, shape, workers)]
    groups = np.arange(len(puzzles))
    while True:
        before = groups
        for key in keys:  # each puzzle joins the first group that shares the key
            least = np.full(len(groups), len(groups))
            np.minimum.at(least, key, groups)
            groups = least[key]
        if (groups == before).all():
            return groups


def leakage_keys(
    puzzles: np.ndarray, solutions: np.ndarray, shape: BoxShape, workers: int
) -> list[Sequence[Hashable]]:
    """Return one or two lists of keys (E,) of (E, N²) puzzles, of which any in common with a test puzzle is a leak.

    From 8x8 up, the key is the solution up to symmetry. Smaller grids have too few solutions for that: the keys of 6x6
    puzzles are the puzzle up to symmetry and the literal solution, that of 4x4 puzzles the literal puzzle.
    """
    if shape.size < SMALLEST_INEQUIVALENT_SIZE:
        return [row_keys(puzzles)]
    puzzle_hashes, grid_hashes = _hashes(puzzles, solutions, shape, workers)
    if shape.size >= SMALLEST_SIZE_OF_MANY_SOLUTIONS:
        return [grid_hashes.tolist()]
    return [puzzle_hashes.tolist(), row_keys(solutions)]


def hold_out(
    groups: np.ndarray, num_test: int, rng: np.random.Generator, source: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Split puzzles at random; return the ascending indices of train and test puzzles, and notes about groups.

    Whole groups (E,) are drawn until `num_test` puzzles are held out; a group that is too large stays in train.
    Raises `UserError` if no group fits.
    """
    sizes = np.bincount(groups, minlength=len(groups))
    members = np.argsort(groups, kind="stable")
    ends = sizes.cumsum()
    is_test, seen, count = np.zeros(len(groups), bool), np.zeros(len(groups), bool), 0
    for group in groups[rng.permutation(len(groups))].tolist():
        if count == num_test:
            break
        if not seen[group] and count + sizes[group] <= num_test:
            is_test[members[ends[group] - sizes[group] : ends[group]]] = True
            count += int(sizes[group])
        seen[group] = True
    grouped = int((sizes[groups] > 1).sum())
    if not count:
        raise UserError(
            f"{source}: its {len(groups)} puzzles form {int((sizes > 0).sum())} groups that share a puzzle or "
            f"solution up to symmetry, and all groups have more than {num_test} puzzles, so no test split can be held "
            "out without leakage: raise --test-size, add other puzzles, or give a folder with train.csv and test.csv"
        )
    notes = []
    if grouped:
        notes.append(
            f"{grouped} puzzles share their puzzle or solution up to symmetry with others and are in the same split"
        )
    if count < num_test:
        notes.append(f"the test split has {count} puzzles instead of {num_test}, for the same reason")
    return np.flatnonzero(~is_test), np.flatnonzero(is_test), notes


def _numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """Number the keys (E,) from 0, equally for equal keys."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _hashes(
    puzzles: np.ndarray, solutions: np.ndarray, shape: BoxShape, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (E,) uint64 hashes of the puzzles, and of their solutions."""
    starts = range(0, len(puzzles), _BATCH)
    batches = ((puzzles[s : s + _BATCH], solutions[s : s + _BATCH]) for s in starts)
    parts = ordered_map(partial(_hash_batch, shape), batches, min(workers, len(starts)))
    puzzle_hashes, grid_hashes = zip(*parts, strict=True)
    return np.concatenate(puzzle_hashes), np.concatenate(grid_hashes)


def _hash_batch(shape: BoxShape, batch: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    puzzles, solutions = batch
    return invariant_hashes(puzzles, solutions, shape), solution_hashes(solutions, shape)
