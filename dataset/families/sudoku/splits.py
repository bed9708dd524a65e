"""Sources of Sudoku datasets: tables, lists of puzzles, or the generator.

Each source yields two `PuzzleSet`s, which are checked but never modified. Shapes: E puzzles, N side of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataset.families.sudoku.batch import ambiguous_notes, solve_all
from dataset.families.sudoku.generate import GeneratedPuzzles, PuzzleSpec, generate_split
from dataset.families.sudoku.lists import PuzzleList, read_list
from dataset.families.sudoku.overlap import hold_out, related_groups
from dataset.families.sudoku.rules import BoxShape, format_grid, is_solution, keeps_givens, violations
from dataset.families.sudoku.symbols import Alphabet, characters_of_cells, find_alphabet
from dataset.sources import TableRows, find_header, find_table, question_length, read_rows
from utils.errors import UserError

# One random stream per purpose.
TRAIN_STREAM, TEST_STREAM, CHOICE_STREAM, AUGMENT_STREAM, NEIGHBOUR_STREAM = range(5)
# Unrated test splits up to this size are solved to record the difficulty of each puzzle.
MOST_PUZZLES_TO_SOLVE = 5000


@dataclass(frozen=True)
class PuzzleSet:
    """puzzles, solutions (E, N²) uint8 values; difficulty (E,) and its kind, or None for both.

    rows: (E,) row (CSV) or line of each puzzle in the source, from 0; None for generated puzzles.
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
    """Both splits with their box shape, source files, notes for the user, and the symbols of each file."""

    shape: BoxShape
    train: PuzzleSet
    test: PuzzleSet
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()


def box_shape(num_cells: int | None, size: int | None, box: str | None) -> BoxShape:
    """Return the box shape given by the options, by default the usual one for `num_cells` cells, or for 9x9."""
    shape = BoxShape.parse(box) if box is not None else None
    if shape is None:
        shape = BoxShape.for_size(size) if size is not None else BoxShape.for_cells(num_cells or 81)
    if size is not None and shape.size != size:
        raise UserError(f"--box-shape {shape} means {shape.size}x{shape.size} grids, but --size is {size}")
    if num_cells is not None and shape.num_cells != num_cells:
        raise UserError(
            f"grids of the source have {num_cells} cells, but {'--size' if box is None else '--box-shape'} means "
            f"{shape.num_cells}"
        )
    return shape


def from_tables(
    source_csv: str | None,
    source_repo: str,
    *,
    size: int | None,
    box: str | None,
    blank: str | None,
    subsample_size: int | None,
    min_difficulty: int | None,
    seed: int,
    workers: int,
) -> PuzzleSplits:
    """Read train.csv and test.csv of a folder, or of the hub dataset if `source_csv` is None.

    Raises `UserError` naming file and line for an answer that breaks a rule or changes a given cell.
    """
    paths = {s: find_table(s, source_csv=source_csv, source_repo=source_repo) for s in ("train", "test")}
    shape = box_shape(question_length(paths["train"], characters_of_cells), size, box)
    read = partial(read_rows, seq_len=shape.num_cells, min_rating=min_difficulty, clean=characters_of_cells)
    rows = {split: read(path) for split, path in paths.items()}
    chosen, notes = choose(len(rows["train"]), subsample_size, seed)
    alphabets = {
        split: find_alphabet(table.questions, table.answers, shape, table.where, blank=blank)
        for split, table in rows.items()
    }
    train = _from_rows(rows["train"].take(chosen), shape, alphabets["train"])
    test = _from_rows(rows["test"], shape, alphabets["test"])
    for split, puzzles in (("train", train), ("test", test)):
        notes += ambiguous_notes(puzzles.puzzles, f"{split} puzzles", shape, workers)
    symbols = tuple(f"{paths[split].name}: symbols {alphabet}" for split, alphabet in alphabets.items())
    return PuzzleSplits(
        shape, train, _rated(test, shape, workers), tuple(paths.values()), tuple(notes), symbols
    )


def from_file(
    path: str | Path,
    *,
    size: int | None,
    box: str | None,
    blank: str | None,
    subsample_size: int | None,
    min_difficulty: int | None,
    test_size: int | None,
    seed: int,
    workers: int,
) -> PuzzleSplits:
    """Read one file, a table with answers or puzzles to solve, and split it at random.

    Related puzzles stay in one split, see `dataset.families.sudoku.overlap.related_groups`. Raises `UserError`, naming
    the line, for a malformed row, a wrong answer, or a puzzle without answer that has no or several solutions.
    """
    path = Path(path)
    if find_header(path) is not None:
        rows = read_rows(path, min_rating=min_difficulty, need_answers=False, clean=characters_of_cells)
        name = "its question"
    else:
        if min_difficulty is not None:
            raise UserError(f"--min-difficulty needs a table with a rating column, but {path} has no header")
        list_size = box_shape(None, size, box).size if size or box else None
        rows = _rows_of_list(read_list(path, size=list_size, blank=blank))
        name = ""
    try:
        shape = box_shape(rows.questions.shape[1], size, box)
    except UserError as error:
        raise UserError(f"{rows.where(0)}: {error}") from None
    alphabet = find_alphabet(rows.questions, rows.answers, shape, rows.where, blank=blank, name=name)
    notes: list[str] = []
    if rows.answers is not None:
        everything = _from_rows(rows, shape, alphabet)
        notes += ambiguous_notes(everything.puzzles, "puzzles", shape, workers)
    else:
        everything = _solve_rows(rows, shape, alphabet, workers)
    num_test = default_test_size(len(everything)) if test_size is None else test_size
    if num_test >= len(everything):
        raise UserError(
            f"--test-size {num_test} leaves no train puzzles: {path} has only {len(everything)} puzzles"
        )
    groups = related_groups(everything.puzzles, everything.solutions, shape, workers)
    rest, held_out, split_notes = hold_out(groups, num_test, np.random.default_rng([seed, TEST_STREAM]), path)
    chosen, chosen_notes = choose(len(rest), subsample_size, seed)
    train, test = _taken(everything, rest[chosen]), _taken(everything, held_out)
    notes += split_notes + chosen_notes
    symbols = (f"{path.name}: symbols {alphabet}",)
    return PuzzleSplits(shape, train, _rated(test, shape, workers), (path,), tuple(notes), symbols)


def generated(
    spec: PuzzleSpec, num_train: int, num_test: int | None, *, seed: int, workers: int
) -> PuzzleSplits:
    """Generate splits without leakage, see `dataset.families.sudoku.generate.generate_split`."""
    num_test = default_test_size(num_train) if num_test is None else num_test
    train = generate_split(spec, num_train, seed=seed, split=TRAIN_STREAM, workers=workers)
    test = generate_split(spec, num_test, seed=seed, split=TEST_STREAM, workers=workers, excluded=train)
    return PuzzleSplits(spec.shape, _from_generated(train), _from_generated(test))


def default_test_size(num_puzzles: int) -> int:
    """Return a tenth of the puzzles, at least one."""
    return max(1, num_puzzles // 10)


def choose(num_rows: int, subsample_size: int | None, seed: int) -> tuple[np.ndarray, list[str]]:
    """Sample train rows; return their ascending indices, and a note if there are fewer than requested."""
    if subsample_size is None or subsample_size >= num_rows:
        short = subsample_size is not None and subsample_size > num_rows
        notes = [
            f"--subsample-size {subsample_size}: there are only {num_rows} train puzzles; using all of them"
        ]
        return np.arange(num_rows), notes if short else []
    rng = np.random.default_rng([seed, CHOICE_STREAM])
    return np.sort(rng.choice(num_rows, subsample_size, replace=False)), []


def _rows_of_list(puzzles: PuzzleList) -> TableRows:
    """Convert a list to a table without answers and ratings; rows are lines of the file, from 0."""
    unrated = np.full(len(puzzles.cells), np.nan)
    return TableRows(puzzles.path, puzzles.lines - 1, puzzles.lines, puzzles.cells, None, unrated)


def _from_rows(rows: TableRows, shape: BoxShape, alphabet: Alphabet) -> PuzzleSet:
    """Convert a table with answers, which must solve their puzzles."""
    assert rows.answers is not None, "only a table read with need_answers=False may lack answers"
    puzzles, solutions = alphabet.values(rows.questions), alphabet.values(rows.answers)
    _check_clues(puzzles, rows.where)
    for start in range(0, len(rows), 10_000):  # in parts, because the check needs many bytes per cell
        part = slice(start, start + 10_000)
        wrong = ~(is_solution(solutions[part], shape) & keeps_givens(puzzles[part], solutions[part]))
        if wrong.any():
            row = start + int(wrong.argmax())
            broken = violations(solutions[row], shape)
            reason = f"is not a solution: {broken[0]}" if broken else "changes given cells of its question"
            raise UserError(f"{rows.where(row)}: its answer {format_grid(solutions[row])} {reason}")
    return PuzzleSet(puzzles, solutions, *_rating(rows.ratings), rows.numbers)


def _solve_rows(rows: TableRows, shape: BoxShape, alphabet: Alphabet, workers: int) -> PuzzleSet:
    """Solve puzzles without answers; difficulty is the rating of the source, or the number of guesses."""
    puzzles = alphabet.values(rows.questions)
    _check_clues(puzzles, rows.where)
    solved = solve_all(puzzles, shape, workers)
    wrong = solved.num_solutions != 1
    if wrong.any():
        index = int(wrong.argmax())
        count = "more than one solution" if solved.num_solutions[index] else "no solution"
        raise UserError(
            f"{rows.where(index)}: the puzzle {format_grid(puzzles[index])} has {count}; a puzzle must have exactly one"
        )
    difficulty, kind = _rating(rows.ratings)
    if kind is None:
        difficulty, kind = solved.guesses, "guesses"
    return PuzzleSet(puzzles, solved.solutions, difficulty, kind, rows.numbers)


def _check_clues(puzzles: np.ndarray, where: Callable[[int], str]) -> None:
    empty = ~puzzles.any(axis=1)
    if empty.any():
        raise UserError(f"{where(int(empty.argmax()))}: the puzzle has no given cell: remove it")


def _rating(ratings: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Return the difficulty and its kind, None for both unless all puzzles have a rating."""
    return (None, None) if np.isnan(ratings).any() else (ratings, "rating")


def _rated(test: PuzzleSet, shape: BoxShape, workers: int) -> PuzzleSet:
    """Add the number of guesses as difficulty to a test split that has none, unless it is large."""
    if test.difficulty is not None or len(test) > MOST_PUZZLES_TO_SOLVE:
        return test
    guesses = solve_all(test.puzzles, shape, workers).guesses
    return PuzzleSet(test.puzzles, test.solutions, guesses, "guesses", test.rows)


def _from_generated(made: GeneratedPuzzles) -> PuzzleSet:
    return PuzzleSet(made.puzzles, made.solutions, made.guesses, "guesses")


def _taken(puzzles: PuzzleSet, indices: np.ndarray) -> PuzzleSet:
    return PuzzleSet(
        puzzles.puzzles[indices],
        puzzles.solutions[indices],
        None if puzzles.difficulty is None else puzzles.difficulty[indices],
        puzzles.difficulty_kind,
        None if puzzles.rows is None else puzzles.rows[indices],
    )
