"""Determine which characters of a Sudoku source stand for values and blanks, once for the whole file.

Grids above 9x9 are written in several ways: 1-9 then A, 0-9 then A (hexadecimal), letters only, or numbers. `0` is a
blank in some and a symbol in others, so it is never guessed.

Shapes: E puzzles, N side of the grid.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.families.sudoku.rules import BLANKS, GRID_SIZES, SYMBOLS, BoxShape
from utils.errors import UserError

Where = Callable[[int], str]  # index of a puzzle -> its location in the source, for messages


# Number of cells in a row or in a grid -> size of the grid.
_GRID_OF_CELLS = {count: size for size in GRID_SIZES for count in (size, size * size)}


def numbers_as_symbols(text: str) -> str:
    """Replace numbers, separated by white space, commas or `|`, by symbols (12 by C) in the text of a row or grid.

    Blanks may be 0 or another single character. Other text, or text without a number above 9, is returned unchanged.
    """
    cells = re.split(r"[\s,|]+", text.strip(" \t,|"))
    numbers = {cell: int(cell) for cell in cells if re.fullmatch("[0-9]{1,2}", cell)}
    size = _GRID_OF_CELLS.get(len(cells), 0)
    if not 9 < max(numbers.values(), default=0) <= size:
        return text
    symbols = {cell: ("0" + SYMBOLS)[number] for cell, number in numbers.items()}
    if any(len(cell) > 1 and cell not in symbols for cell in cells):
        return text
    return "".join(symbols.get(cell, cell) for cell in cells)


def characters_of_cells(text: str) -> str:
    """Return one character per cell of a grid, whose cells may be separated by white space or be numbers."""
    return "".join(numbers_as_symbols(text).split())


@dataclass(frozen=True)
class Alphabet:
    """The symbols of the values 1..N in order, and the characters that stand for a blank."""

    symbols: str
    blanks: str

    def __str__(self) -> str:
        return f"{_ranges(self.symbols)} with {' or '.join(self.blanks)} for a blank"

    def values(self, cells: np.ndarray) -> np.ndarray:
        """Convert character codes (uint8), with letters in either case, to uint8 values; 0 for blanks."""
        table = np.zeros(256, np.uint8)
        for symbols in (self.symbols, self.symbols.lower()):
            table[np.frombuffer(symbols.encode(), np.uint8)] = np.arange(1, len(symbols) + 1)
        return table[cells]


def find_alphabet(
    puzzles: np.ndarray,
    answers: np.ndarray | None,
    shape: BoxShape,
    where: Where,
    *,
    blank: str | None = None,
    name: str = "its question",
) -> Alphabet:
    """Determine the alphabet of (E, N²) character codes, and of their answers if the source has them.

    blank: the characters that stand for a blank, by default those of `.` and `0` that are not symbols. name: how
    messages refer to a puzzle of the source. Raises `UserError`, naming the location, for a character that fits no
    alphabet, for a mixture of alphabets, and for a `0` that could be a blank or a symbol.
    """
    used = _characters(puzzles)
    if answers is None:
        symbols = _symbols_of_puzzles(puzzles, used - set((blank or "").upper()), shape, where, blank)
    else:
        symbols = _symbols_of_answers(_characters(answers), shape)
    if blank is not None and set(blank.upper()) & set(symbols):
        raise UserError(
            f"--blank {blank}: the source uses it as one of {_ranges(symbols)}, from {where(0)} on"
        )
    blanks = blank or "".join(character for character in BLANKS if character not in symbols)
    alphabet = Alphabet(symbols, "".join(c for c in blanks if c.upper() in used) or blanks)
    _check(puzzles, symbols + blanks, where, name, alphabet)
    if answers is not None:
        _check(answers, symbols, where, "its answer", alphabet)
    return alphabet


def known_alphabets(size: int) -> tuple[str, str, str]:
    """Return the symbols in common use for N x N grids: from 1 up, from 0 up (such as hexadecimal), and letters."""
    return SYMBOLS[:size], ("0" + SYMBOLS)[:size], string.ascii_uppercase[:size]


def ambiguous_zero(puzzles: np.ndarray, shape: BoxShape) -> np.ndarray:
    """Return (E,) bool, True for (E, N²) character codes that use both `0` and `.` and can be read in two ways.

    One character for a blank is enough, so `0` may be a symbol. It is not if the last symbol of 1..N, such as 9 in 9x9
    grids, occurs too, because the grid would then have one symbol too many. A puzzle with one solution lacks at most
    one symbol, so a puzzle that lacks more is not considered ambiguous.
    """
    ambiguous = _shows(puzzles, "0") & _shows(puzzles, ".") & ~_shows(puzzles, shape.symbols[-1])
    rows = np.flatnonzero(ambiguous)
    shown = sum(_shows(puzzles[rows], symbol).astype(np.int64) for symbol in shape.symbols[:-1])
    ambiguous[rows] = shown >= shape.size - 2
    return ambiguous


def _shows(puzzles: np.ndarray, symbol: str) -> np.ndarray:
    """Return (E,) bool, True for (E, N²) character codes that contain the symbol, in either case."""
    return ((puzzles == ord(symbol)) | (puzzles == ord(symbol.lower()))).any(axis=1)


def _symbols_of_puzzles(
    puzzles: np.ndarray, used: set[str], shape: BoxShape, where: Where, blank: str | None
) -> str:
    """Return the alphabet of puzzles without answers. Raises `UserError` if only the user can know what `0` means."""
    from_one, from_zero, letters = known_alphabets(shape.size)
    if used & set(string.ascii_uppercase) and not used & set("123456789"):
        return letters
    if blank is not None:
        return from_zero if "0" in used else from_one
    if (ambiguous := ambiguous_zero(puzzles, shape)).any():
        raise UserError(
            f"{where(int(ambiguous.argmax()))} has both 0 and . in one grid: use --blank . if 0 is one of the symbols "
            f"{_ranges(from_zero)}, or --blank .0 if both are blanks"
        )
    return from_one


def _symbols_of_answers(used: set[str], shape: BoxShape) -> str:
    """Return the alphabet with the most of the characters in use by full grids."""
    return max(known_alphabets(shape.size), key=lambda symbols: len(used & set(symbols)))


def _check(cells: np.ndarray, allowed: str, where: Where, name: str, alphabet: Alphabet) -> None:
    wrong = cells.tobytes().upper().translate(None, allowed.upper().encode("latin-1"))
    if not wrong:
        return
    is_wrong = np.isin(cells, np.frombuffer(wrong + wrong.lower(), np.uint8))
    row, cell = np.argwhere(is_wrong)[0]
    character = chr(cells[row, cell])
    blanks = "" if name == "its answer" else f" and {' or '.join(alphabet.blanks)} for a blank"
    hint = "" if character.isalnum() or not blanks else f" (use --blank {character} if it is a blank)"
    raise UserError(
        f"{where(row)}{': ' + name if name else ''} has {character!r} at character {cell + 1}; this file uses "
        f"{_ranges(alphabet.symbols)}{blanks}{hint}"
    )


def _characters(cells: np.ndarray) -> set[str]:
    """Return the characters among (E, S) codes, with letters in upper case."""
    used = np.zeros(256, bool)
    for start in range(0, len(cells), 10_000):  # in parts, because an index array takes eight bytes per cell
        used[cells[start : start + 10_000]] = True
    return {chr(code).upper() for code in np.flatnonzero(used)}


def _ranges(symbols: str) -> str:
    """Abbreviate symbols, for example as 1-9A-G."""
    digits = [symbol for symbol in symbols if symbol.isdigit()]
    letters = [symbol for symbol in symbols if not symbol.isdigit()]
    runs = (f"{run[0]}-{run[-1]}" if len(run) > 1 else run[0] for run in (digits, letters) if run)
    return "".join(runs)
