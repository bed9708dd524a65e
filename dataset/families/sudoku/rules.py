"""Rules of Sudoku for any box shape: vocabulary, text and tokens, constraints, symmetries.

N is the side of the grid; values are 0 (blank) and 1..N; tokens are value + 1, so that 0 is free for padding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dataset.augment import SudokuSymmetry, shuffled_bands
from utils.errors import UserError

SYMBOLS = "123456789ABCDEFGHIJKLMNOP"
BLANKS = ".0"
BLANK_ID = 1  # token of a blank cell; value v is token v + 1
MAX_SIZE = len(SYMBOLS)
MAX_SIDE = 8  # of a box, because symmetries enumerate all orders of its lines
_SIDES = range(2, MAX_SIDE + 1)
# Upper bounds and names of difficulty classes, for both guesses and ratings.
DIFFICULTY_CLASSES = ((0, 5, 20, 100), ("0", "1-5", "6-20", "21-100", "over_100"))
GRID_SIZES = tuple(
    n for n in range(4, MAX_SIZE + 1) if any(rows * columns == n for rows in _SIDES for columns in _SIDES)
)


@dataclass(frozen=True, order=True)
class BoxShape:
    """Rows and columns of one box; the grid is N x N with N = rows·columns."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows not in _SIDES or self.columns not in _SIDES or self.size > MAX_SIZE:
            raise UserError(
                f"boxes of {self.rows}x{self.columns} are not possible: both sides must be 2 to {MAX_SIDE} "
                f"and the grid (rows times columns) at most {MAX_SIZE}"
            )

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def num_cells(self) -> int:
        return self.size**2

    @property
    def square(self) -> bool:
        return self.rows == self.columns

    @property
    def vocab_size(self) -> int:
        """Pad, blank and N symbols."""
        return self.size + 2

    @property
    def symbols(self) -> str:
        return SYMBOLS[: self.size]

    @classmethod
    def parse(cls, text: str) -> BoxShape:
        """Parse a shape such as `2x3`: boxes of 2 rows and 3 columns."""
        match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
        if match is None:
            raise UserError(f"box shape {text!r} is not ROWSxCOLUMNS, such as 2x3")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def for_size(cls, size: int) -> BoxShape:
        """Return the default boxes of an N x N grid: as square as possible, not taller than wide (2x3 for N = 6)."""
        tall = [rows for rows in range(2, size) if size % rows == 0 and rows * rows <= size]
        if size not in GRID_SIZES:
            valid = ", ".join(map(str, GRID_SIZES))
            raise UserError(f"no Sudoku grid has size {size}: it must be one of {valid}")
        return cls(tall[-1], size // tall[-1])

    @classmethod
    def for_cells(cls, num_cells: int) -> BoxShape:
        """Return the default boxes of a grid of `num_cells` cells (36: 2x3)."""
        size = round(num_cells**0.5)
        if size * size != num_cells:
            raise UserError(
                f"{num_cells} cells do not form a square grid: a 6x6 puzzle has 36, a 9x9 puzzle has 81"
            )
        return cls.for_size(size)


def recorded_shape(extra: Mapping[str, Any], num_cells: int, where: str) -> BoxShape:
    """Return the box shape from `box_shape` [rows, columns] of a dataset.json, or the default if it is missing.

    Raises `UserError`, prefixed with `where`, if it does not fit grids of `num_cells` cells.
    """
    recorded = extra.get("box_shape")
    try:
        shape = BoxShape.for_cells(num_cells) if recorded is None else BoxShape(*recorded)
    except TypeError:
        raise UserError(f"{where}: box_shape is {recorded!r}, but must be [rows, columns] of a box") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if shape.num_cells != num_cells:
        raise UserError(
            f"{where}: box_shape {recorded} means grids of {shape.num_cells} cells, not {num_cells}"
        )
    return shape


@lru_cache
def units(shape: BoxShape) -> np.ndarray:
    """Return the cells (3N, N) of each row, then of each column, then of each box."""
    cells = np.arange(shape.num_cells).reshape(shape.size, shape.size)
    boxes = cells.reshape(shape.columns, shape.rows, shape.rows, shape.columns).swapaxes(1, 2)
    return np.concatenate([cells, cells.T, boxes.reshape(shape.size, shape.size)])


# --- text, values, tokens ---


def parse_grid(text: str, shape: BoxShape, where: str = "the puzzle") -> np.ndarray:
    """Parse a grid in reading order, with `.` or `0` for blanks, to (N²,) uint8 values.

    Raises `UserError`, prefixed with `where`, naming the position of a wrong character.
    """
    if len(text) != shape.num_cells:
        raise UserError(
            f"{where} has {len(text)} characters, but a {shape.size}x{shape.size} grid has {shape.num_cells}"
        )
    allowed = BLANKS + shape.symbols
    for position, character in enumerate(text, start=1):
        if character not in allowed:
            raise UserError(
                f"{where} has {character!r} at character {position}; allowed are {shape.symbols} "
                f"and {' or '.join(BLANKS)} for a blank"
            )
    return np.array([shape.symbols.find(character) + 1 for character in text], np.uint8)


def format_grid(values: np.ndarray) -> str:
    """Format a grid of values in reading order, with `.` for blanks."""
    return "".join(("." + SYMBOLS)[value] for value in np.asarray(values).reshape(-1))


def draw_grid(values: np.ndarray, shape: BoxShape) -> str:
    """Format a grid of values as lines of text, with lines between the boxes."""
    rows = np.asarray(values).reshape(shape.size, shape.size)
    rule = "+".join(["-" * (2 * shape.columns + 1)] * shape.rows)
    lines = []
    for number, row in enumerate(rows):
        if number and number % shape.rows == 0:
            lines.append(rule[1:-1])
        boxes = row.reshape(shape.rows, shape.columns)
        lines.append(" | ".join(" ".join(format_grid(box)) for box in boxes))
    return "\n".join(lines)


def to_tokens(values: np.ndarray) -> np.ndarray:
    """Convert values to uint8 tokens."""
    return (np.asarray(values) + 1).astype(np.uint8)


def to_values(tokens: np.ndarray) -> np.ndarray:
    """Convert tokens to values; padding and blanks are both 0."""
    return np.maximum(np.asarray(tokens).astype(np.int64) - 1, 0)


# --- rules ---


def is_solution(values: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Return (...) bool, True for (..., N²) grids with every value once in each row, column and box."""
    values = np.asarray(values)
    bits = np.where((values >= 1) & (values <= shape.size), 1 << values.astype(np.int64).clip(0, 62), 0)
    every = (1 << (shape.size + 1)) - 2
    # N cells that contain all N values contain each of them once.
    return (np.bitwise_or.reduce(bits[..., units(shape)], axis=-1) == every).all(axis=-1)


def keeps_givens(puzzles: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (...) bool, True for (..., N²) grids that agree with their puzzle in all given cells."""
    return ((puzzles == 0) | (puzzles == values)).all(axis=-1)


def violations(values: np.ndarray, shape: BoxShape) -> list[str]:
    """Return a sentence for each repeated value in a row, column or box of a (partly) filled grid."""
    names = [f"{kind} {index + 1}" for kind in ("row", "column", "box") for index in range(shape.size)]
    grid = np.asarray(values).reshape(-1)
    found = []
    for name, cells in zip(names, units(shape), strict=True):
        counts = np.bincount(grid[cells], minlength=shape.size + 1)
        repeated = [SYMBOLS[value - 1] for value in range(1, shape.size + 1) if counts[value] > 1]
        found += [
            f"{symbol} occurs {counts[SYMBOLS.index(symbol) + 1]} times in {name}" for symbol in repeated
        ]
    return found


# --- symmetries ---


def random_symmetries(rng: np.random.Generator, count: int, shape: BoxShape) -> SudokuSymmetry:
    """Draw `count` symmetries that map solutions with these boxes to solutions.

    Digits are permuted; bands and the rows within each, stacks and the columns within each are reordered;
    half are transposed if boxes are square (otherwise that would change the box shape).
    """
    digits = np.zeros((count, shape.size + 1), np.uint8)
    order = np.arange(1, shape.size + 1, dtype=np.uint8)
    digits[:, 1:] = rng.permuted(np.broadcast_to(order, (count, shape.size)), axis=1)
    return SudokuSymmetry(
        digits=digits,
        rows=shuffled_bands(rng, count, shape.columns, shape.rows),
        columns=shuffled_bands(rng, count, shape.rows, shape.columns),
        transpose=rng.integers(0, 2, count).astype(bool) if shape.square else np.zeros(count, bool),
    )
