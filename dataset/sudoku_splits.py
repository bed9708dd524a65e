"""Where Sudoku datasets come from: hub-style tables, a plain list of puzzles, or the generator.

Each source becomes two `PuzzleSet`s, checked but never altered. E = puzzles, N = size of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataset.parallel import ordered_map
from dataset.sources import Rows, find_table, question_length, read_rows
from dataset.sudoku import (
    BLANKS,
    BoxShape,
    format_grid,
    is_solution,
    keeps_givens,
    parse_grid,
    value_table,
    violations,
)
from dataset.sudoku_batch import BatchResult, solve_batch
from dataset.sudoku_generate import GeneratedPuzzles, PuzzleSpec, generate_split
from dataset.sudoku_hash import invariant_hashes
from utils.errors import UserError

# Purposes of random numbers; each gets a stream of its own from the seed.
TRAIN_STREAM, TEST_STREAM, CHOICE_STREAM, AUGMENT_STREAM = range(4)
# Unrated test splits up to this size are solved to record how hard each puzzle is.
MOST_PUZZLES_TO_SOLVE = 5000
# Puzzles that one worker solves or hashes at a time: enough to make up for starting it.
_BATCH = 300


@dataclass(frozen=True)
class PuzzleSet:
    """puzzles, solutions (E, N²) uint8 values; difficulty (E,) of the kind named, or both None.

    rows: (E,) which row (CSV) or line of the source each one is, from 0; None for generated puzzles.
    """

    puzzles: np.ndarray
    solutions: np.ndarray
    difficulty: np.ndarray | None = None
    difficulty_kind: str | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.puzzles)


@dataclass(frozen=True)
class PuzzleSplits:
    """Both splits with their box shape, the files they come from, and a line on whatever needs saying."""

    shape: BoxShape
    train: PuzzleSet
    test: PuzzleSet
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def box_shape(num_cells: int | None, size: int | None, box: str | None) -> BoxShape:
    """The shape that the options ask for, by default the usual one of `num_cells` cells, of 9x9 without."""
    shape = BoxShape.parse(box) if box is not None else None
    if shape is None:
        shape = BoxShape.for_size(size) if size is not None else BoxShape.for_cells(num_cells or 81)
    if size is not None and shape.size != size:
        raise UserError(f"--box-shape {shape} makes {shape.size}x{shape.size} grids, but --size says {size}")
    if num_cells is not None and shape.num_cells != num_cells:
        raise UserError(
            f"the source's grids have {num_cells} cells, but {'--size' if box is None else '--box-shape'} asks "
            f"for {shape.num_cells}"
        )
    return shape


def from_tables(
    source_csv: str | None,
    source_repo: str,
    *,
    size: int | None,
    box: str | None,
    subsample_size: int | None,
    min_difficulty: int | None,
    seed: int,
    workers: int,
) -> PuzzleSplits:
    """train.csv and test.csv of a folder, or of the hub dataset when `source_csv` is None.

    Raises `UserError` naming file and row for an answer that breaks a rule or changes a given cell.
    """
    paths = {s: find_table(s, source_csv=source_csv, source_repo=source_repo) for s in ("train", "test")}
    shape = box_shape(question_length(paths["train"]), size, box)
    symbols = {"question_symbols": BLANKS + shape.symbols, "answer_symbols": shape.symbols}
    rows = {
        split: read_rows(path, **symbols, seq_len=shape.num_cells, min_rating=min_difficulty)
        for split, path in paths.items()
    }
    chosen, notes = choose(len(rows["train"]), subsample_size, seed)
    train = _from_rows(rows["train"].take(chosen), shape)
    test = _from_rows(rows["test"], shape)
    if test.difficulty is None and len(test) <= MOST_PUZZLES_TO_SOLVE:
        solved = _solved(test.puzzles, shape, workers)
        test = PuzzleSet(test.puzzles, test.solutions, solved.guesses, "guesses", test.rows)
        ambiguous = int((solved.num_solutions > 1).sum())
        if ambiguous:
            notes.append(f"{ambiguous} of {len(test)} test puzzles have more than one solution")
    return PuzzleSplits(shape, train, test, tuple(paths.values()), tuple(notes))


def from_list(
    path: str,
    *,
    size: int | None,
    box: str | None,
    subsample_size: int | None,
    test_size: int | None,
    seed: int,
    workers: int,
) -> PuzzleSplits:
    """A file with one puzzle a line, solved here and split at random.

    Raises `UserError` naming the line of a puzzle that is malformed or has no or several solutions.
    """
    lines = _read_lines(Path(path))
    shape = box_shape(len(lines[0][1]), size, box)
    puzzles = np.stack([parse_grid(text, shape, f"{path} line {line}") for line, text in lines])
    solved = _solved(puzzles, shape, workers)
    wrong = solved.num_solutions != 1
    if wrong.any():
        line, text = lines[int(wrong.argmax())]
        count = "more than one solution" if solved.num_solutions[wrong][0] else "no solution"
        raise UserError(f"{path} line {line}: the puzzle {text} has {count}; a puzzle must have exactly one")
    num_test = default_test_size(len(lines)) if test_size is None else test_size
    if num_test >= len(lines):
        raise UserError(
            f"--test-size {num_test} leaves none of the {len(lines)} puzzles in {path} to train on"
        )
    everything = PuzzleSet(
        puzzles, solved.solutions, solved.guesses, "guesses", np.array([line for line, _ in lines]) - 1
    )
    order = np.random.default_rng([seed, TEST_STREAM]).permutation(len(lines))
    rest = np.sort(order[num_test:])
    chosen, notes = choose(len(rest), subsample_size, seed)
    train, test = _taken(everything, rest[chosen]), _taken(everything, np.sort(order[:num_test]))
    return PuzzleSplits(shape, train, test, (Path(path),), tuple(notes))


def generated(
    spec: PuzzleSpec, num_train: int, num_test: int | None, *, seed: int, workers: int
) -> PuzzleSplits:
    """Splits without a source and without leaks, see `dataset.sudoku_generate.generate_split`."""
    num_test = default_test_size(num_train) if num_test is None else num_test
    settings = {"seed": seed, "workers": workers}
    train = generate_split(spec, num_train, split=TRAIN_STREAM, **settings)
    test = generate_split(spec, num_test, split=TEST_STREAM, apart_from=train, **settings)
    return PuzzleSplits(spec.shape, _from_generated(train), _from_generated(test))


def default_test_size(num_puzzles: int) -> int:
    """A tenth, and at least one."""
    return max(1, num_puzzles // 10)


def choose(num_rows: int, subsample_size: int | None, seed: int) -> tuple[np.ndarray, list[str]]:
    """Which of the train rows to use, ascending, and a note when there are fewer than asked for."""
    if subsample_size is None or subsample_size >= num_rows:
        short = subsample_size is not None and subsample_size > num_rows
        notes = [f"--subsample-size {subsample_size}: there are only {num_rows} train puzzles, all are used"]
        return np.arange(num_rows), notes if short else []
    rng = np.random.default_rng([seed, CHOICE_STREAM])
    return np.sort(rng.choice(num_rows, subsample_size, replace=False)), []


def overlap(train: PuzzleSet, test: PuzzleSet, shape: BoxShape, workers: int) -> dict[str, int]:
    """How many test puzzles have their puzzle, their solution, or an equivalent puzzle in train."""
    train_hashes, test_hashes = (_hashes(s, shape, workers) for s in (train, test))
    return {
        "puzzles": num_contained(test.puzzles, train.puzzles),
        "solutions": num_contained(test.solutions, train.solutions),
        "equivalent_puzzles": int(np.isin(test_hashes, train_hashes).sum()),
    }


def num_contained(rows: np.ndarray, others: np.ndarray) -> int:
    """How many of the (E, cells) rows occur among the others."""
    wanted = row_keys(rows)
    different, found = set(wanted), set()
    for start in range(
        0, len(others), 60 * _BATCH
    ):  # in parts: millions of keys need much more than their bytes
        found |= different.intersection(row_keys(others[start : start + 60 * _BATCH]))
    return sum(key in found for key in wanted)


def row_keys(rows: np.ndarray) -> list[bytes]:
    """The bytes of each (E, cells) uint8 row."""
    rows = np.ascontiguousarray(rows, np.uint8)
    return rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1).tolist()


def _from_rows(rows: Rows, shape: BoxShape) -> PuzzleSet:
    table = value_table(shape)
    puzzles, solutions = table[rows.questions], table[rows.answers]
    for start in range(0, len(rows), 10_000):  # in parts: the check of rules needs many bytes a cell
        part = slice(start, start + 10_000)
        wrong = ~(is_solution(solutions[part], shape) & keeps_givens(puzzles[part], solutions[part]))
        if wrong.any():
            row = start + int(wrong.argmax())
            broken = violations(solutions[row], shape)
            reason = f"is no solution: {broken[0]}" if broken else "changes given cells of its question"
            raise UserError(f"{rows.where(row)}: its answer {format_grid(solutions[row])} {reason}")
    rated = not np.isnan(rows.ratings).any()
    return PuzzleSet(
        puzzles, solutions, rows.ratings if rated else None, "rating" if rated else None, rows.numbers
    )


def _from_generated(made: GeneratedPuzzles) -> PuzzleSet:
    return PuzzleSet(made.puzzles, made.solutions, made.guesses, "guesses")


def _taken(puzzles: PuzzleSet, indices: np.ndarray) -> PuzzleSet:
    return PuzzleSet(
        puzzles.puzzles[indices],
        puzzles.solutions[indices],
        puzzles.difficulty[indices],
        puzzles.difficulty_kind,
        puzzles.rows[indices],
    )


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number from 1, text) of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise UserError(f"{path} holds no puzzle: it must have one a line")
    if "question" in lines[0][1]:
        raise UserError(
            f"{path} has a header: a table with columns goes into a folder, as train.csv beside test.csv, and "
            "--source-csv names that folder; a file holds one puzzle a line"
        )
    return lines


def _solved(puzzles: np.ndarray, shape: BoxShape, workers: int) -> BatchResult:
    """All puzzles solved, in order."""
    batches = [puzzles[start : start + _BATCH] for start in range(0, len(puzzles), _BATCH)]
    results = list(ordered_map(partial(solve_batch, shape=shape), batches, min(workers, len(batches))))
    fields = ("num_solutions", "solutions", "guesses")
    return BatchResult(*(np.concatenate([getattr(result, name) for result in results]) for name in fields))


def _hashes(puzzles: PuzzleSet, shape: BoxShape, workers: int) -> np.ndarray:
    step = 60 * _BATCH
    starts = range(0, len(puzzles), step)
    batches = ((puzzles.puzzles[s : s + step], puzzles.solutions[s : s + step]) for s in starts)
    return np.concatenate(list(ordered_map(partial(_hash_batch, shape), batches, min(workers, len(starts)))))


def _hash_batch(shape: BoxShape, batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return invariant_hashes(*batch, shape)
