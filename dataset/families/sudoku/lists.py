"""Read lists of Sudoku puzzles in common text formats: one puzzle per line, or grids of N lines.

Supported are comments (`#`, `//`), titles (`Grid 01`, `[Puzzle]`), columns before or after the puzzle, cells separated
by spaces or commas, numbers for the symbols above 9, and grids drawn with `|`, `-` and `+`. A line that could be a
puzzle but has a wrong length or character is an error, never skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.families.sudoku.rules import BLANKS, GRID_SIZES, BoxShape
from dataset.families.sudoku.symbols import known_alphabets, numbers_as_symbols
from utils.errors import UserError
from utils.reading import read_text

_COMMENT = re.compile(r"(^|\s)(#|//).*")
_RULE = re.compile(r"[-+|=*:_ ]*[-+=][-+|=*:_ ]*")
# A word, possibly with more text, such as `Grid 01`, `top95` or `Author: N. N.`, a section, or a number.
_TITLE = re.compile(r"\[.*\]|[^\W\d_]*[^\W\d_]{3}.*|\d{1,3}[.:)]?")
_CELL_COUNTS = {size * size: size for size in GRID_SIZES}


@dataclass(frozen=True)
class PuzzleList:
    """The puzzles of a list: lines (E,) on which they start, counted from 1, and characters (E, N²) uint8."""

    path: Path
    lines: np.ndarray
    cells: np.ndarray

    def where(self, index: int) -> str:
        """Return the file and line of puzzle `index`, for messages."""
        return f"{self.path} line {self.lines[index]}"


def read_list(path: Path, *, size: int | None = None, blank: str | None = None) -> PuzzleList:
    """Read the puzzles of a text file, all of one size: `size` x `size`, by default that of the first puzzle.

    blank: the characters that stand for a blank, by default `.` and `0`. Raises `UserError`, naming file and line, for
    a line that is not a puzzle, a title or a comment.
    """
    lines = [numbers_as_symbols(_COMMENT.sub("", line).strip()) for line in read_text(path).splitlines()]
    reader = _Reader(path, size, blank or BLANKS, lines)
    for number, line in enumerate(lines, start=1):
        reader.read(number, line)
    reader.end_grid()
    if not reader.puzzles:
        raise UserError(
            f"{path} holds no puzzle: it must have one per line or grids of N lines with N cells, without answers, or "
            "be a table with a header such as puzzle,solution"
        )
    starts, texts = zip(*reader.puzzles, strict=True)
    codes = np.frombuffer("".join(texts).encode("latin-1"), np.uint8)
    return PuzzleList(path, np.array(starts), codes.reshape(len(texts), -1))


class _Reader:
    """Collect (line, cells) of puzzles, and the rows of a grid that is not complete yet."""

    def __init__(self, path: Path, size: int | None, blanks: str, lines: list[str]) -> None:
        self.path, self.size, self.blanks = path, size, blanks
        self.puzzles: list[tuple[int, str]] = []
        self.rows: list[tuple[int, str]] = []
        self.separators = dict.fromkeys(ord(character) for character in " \t|" if character not in blanks)
        self.rules_are_cells = any(character in blanks for character in "-+=")
        self.any_cells = self._cells(GRID_SIZES[-1])
        # Few long words consist of the symbols up to the 16th alone, but most words consist of those up to the 25th.
        small, large = (re.escape("".join(sorted(self._cells(size)))) for size in (16, GRID_SIZES[-1]))
        self.long_run = re.compile(f"[{small}]{{14,}}|[{large}]{{18,}}")
        candidates = map(self._joined, lines)
        self.num_lines_of = Counter(len(cells) for cells in candidates if self.any_cells.issuperset(cells))
        # 16 cells are a 4x4 puzzle, or a row of a 16x16 grid if some line uses more than the symbols of 4x4.
        sixteens = [
            cells
            for cells in map(self._joined, lines)
            if len(cells) == 16 and self.any_cells.issuperset(cells)
        ]
        self.sixteen_is_row = not all(self._cells(4).issuperset(cells) for cells in sixteens)

    def read(self, number: int, text: str) -> None:
        """Process one line, with comments removed."""
        if not text or (not self.rules_are_cells and _RULE.fullmatch(text)):
            return
        if (row := self._row(text)) is not None:
            self._add_row(number, row)
        elif (puzzle := self._puzzle(text)) is not None:
            self.end_grid()
            self.puzzles.append((number, puzzle))
            self.size = _CELL_COUNTS[len(puzzle)]
        elif _TITLE.fullmatch(text) and not self.long_run.search(text):
            self.end_grid()
        else:
            self._reject(number, text)

    def end_grid(self) -> None:
        """Raise `UserError` if a grid ends before it is complete."""
        if self.rows:
            number, row = self.rows[0]
            raise UserError(
                f"{self.path} line {number}: the grid that starts here has {len(self.rows)} rows of {len(row)} "
                f"cells instead of {len(row)}"
            )

    def _row(self, text: str) -> str | None:
        """Return the cells of a line that is a row of a grid, otherwise None."""
        fields = [field.strip() for field in text.split(",")]
        if len(fields) > 1 and max(map(len, fields)) <= 1:  # an empty cell of a spreadsheet is a blank
            cells = "".join(field or self.blanks[0] for field in fields)
        else:
            cells = self._joined(text)
        if self.rows:
            size = len(self.rows[0][1])
            is_row = len(cells) <= size
        else:
            size = len(cells)
            is_row = size in GRID_SIZES if self.size is None else size == self.size
            if size == 16 and self.size is None:
                is_row = self.sixteen_is_row
            elif size > 16 and self.size is None:  # could also be a title with that many letters
                is_row = is_row and self.num_lines_of[size] >= size
        return cells if is_row and self._cells(size).issuperset(cells) else None

    def _add_row(self, number: int, row: str) -> None:
        self.rows.append((number, row))
        size = len(self.rows[0][1])
        if len(row) != size:
            raise UserError(
                f"{self.path} line {number} has {len(row)} cells, but the grid that starts in line "
                f"{self.rows[0][0]} has rows of {size}"
            )
        if len(self.rows) == size:
            self.puzzles.append((self.rows[0][0], "".join(cells for _, cells in self.rows)))
            self.rows, self.size = [], size

    def _puzzle(self, text: str) -> str | None:
        """Return the cells of a puzzle on one line, None if there is none."""
        whole = self._joined(text.replace(",", "") if re.fullmatch(r"(\s*\S,)+\s*\S", text) else text)
        for field in (whole, *map(self._joined, re.split(r"[,;\t]", text)), *text.split()):
            if self._is_puzzle(field):
                return field
        return None

    def _is_puzzle(self, cells: str) -> bool:
        size = _CELL_COUNTS.get(len(cells))
        return size is not None and self.size in (None, size) and self._cells(size).issuperset(cells)

    def _joined(self, text: str) -> str:
        return text.translate(self.separators)

    def _cells(self, size: int) -> set[str]:
        """Return the characters that are allowed in cells of a grid of this size."""
        symbols = "".join(known_alphabets(size))
        return {*symbols, *symbols.lower(), *BLANKS, *self.blanks}

    def _reject(self, number: int, text: str) -> None:
        where, size = f"{self.path} line {number}", len(self.rows[0][1]) if self.rows else self.size
        cells = self._joined(text)
        for position, character in enumerate(cells, start=1):
            if character not in (self.any_cells if size is None else self._cells(size)):
                raise UserError(
                    f"{where} has {character!r} at character {position}, which cannot be a cell of a puzzle: blanks "
                    "are written as . or 0 (or see --blank), and comments start with #"
                )
        if size is not None:
            raise UserError(
                f"{where} has {len(cells)} characters instead of the {size**2} of a {size}x{size} grid"
            )
        try:
            BoxShape.for_cells(len(cells))
        except UserError as error:
            raise UserError(f"{where} is not a puzzle: {error}; comments start with #") from None
        raise UserError(f"{where} is not a puzzle: its symbols are not those of a grid of {len(cells)} cells")
