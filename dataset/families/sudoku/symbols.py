"""Which characters of a Sudoku source stand for the values and which for a blank, decided for a whole file.

Grids above 9x9 are written in several ways: 1-9 then A, 0-9 then A (hexadecimal), letters only, or numbers. A `0` is
a blank in one and a symbol in another, so it is never guessed.

E = puzzles, N = size of the grid.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.families.sudoku.rules import BLANKS, GRID_SIZES, SYMBOLS, BoxShape
from utils.errors import UserError

Where = Callable[[int], str]  # the place of puzzle i in its source, for messages


_GRID_OF_CELLS = {count: size for size in GRID_SIZES for count in (size, size * size)}  # of a row or a grid


def numbers_as_symbols(text: str) -> str:
    """A row or a grid whose cells are numbers apart by white space, commas or `|`, with a symbol for each: 12 is C.

    Blanks may be 0 or another single character. Other text, also without a number above 9, stays as it is.
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
    """One character for each cell of a grid, which may be apart by white space or be numbers."""
    return "".join(numbers_as_symbols(text).split())


@dataclass(frozen=True)
class Alphabet:
    """The symbols of the values 1..N in order, and the characters that stand for a blank."""

    symbols: str
    blanks: str

    def __str__(self) -> str:
        return f"{_ranges(self.symbols)} with {' or '.join(self.blanks)} for a blank"

    def values(self, cells: np.ndarray) -> np.ndarray:
        """uint8 values of character codes (uint8), of letters in any case; 0 for blanks."""
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
    """The alphabet of (E, N²) character codes, and of their answers where the source has them.

    blank: the characters that stand for a blank, by default those of `.` and `0` that are no symbol. name: what
    messages call a puzzle of the source. Raises `UserError` naming the place of a character that fits no alphabet
    or a mixture of them, and of a `0` that may be a blank or a symbol.
    """
    used = _characters(puzzles)
    if answers is None:
        symbols = _symbols_of_puzzles(puzzles, used - set((blank or "").upper()), shape, where, blank)
    else:
        symbols = _symbols_of_answers(_characters(answers), shape)
    if blank is not None and set(blank.upper()) & set(symbols):
        raise UserError(f"--blank {blank}: {where(0)} and what follows uses it as one of {_ranges(symbols)}")
    blanks = blank or "".join(character for character in BLANKS if character not in symbols)
    alphabet = Alphabet(symbols, "".join(c for c in blanks if c.upper() in used) or blanks)
    _check(puzzles, symbols + blanks, where, name, alphabet)
    if answers is not None:
        _check(answers, symbols, where, "its answer", alphabet)
    return alphabet


def known_alphabets(size: int) -> tuple[str, str, str]:
    """The symbols that grids of N x N are written in: from 1 up, from 0 up such as hexadecimal 0-9A-F, and letters."""
    return SYMBOLS[:size], ("0" + SYMBOLS)[:size], string.ascii_uppercase[:size]


def ambiguous_zero(puzzles: np.ndarray, shape: BoxShape) -> np.ndarray:
    """(E,) bool: which of the (E, N²) character codes use both `0` and `.` and could be read in two ways.

    Nobody needs two characters for a blank, so the `0` may be a symbol. It is not if the last symbol of 1..N, such
    as the 9 of 9x9 grids, occurs too: together they would be one symbol more than the grid has. A puzzle with one
    solution lacks at most one of its symbols, so what lacks more of them needs no question.
    """
    ambiguous = _shows(puzzles, "0") & _shows(puzzles, ".") & ~_shows(puzzles, shape.symbols[-1])
    rows = np.flatnonzero(ambiguous)
    shown = sum(_shows(puzzles[rows], symbol).astype(np.int64) for symbol in shape.symbols[:-1])
    ambiguous[rows] = shown >= shape.size - 2
    return ambiguous


def _shows(puzzles: np.ndarray, symbol: str) -> np.ndarray:
    """(E,) bool: which of the (E, N²) character codes have the symbol, in any case."""
    return ((puzzles == ord(symbol)) | (puzzles == ord(symbol.lower()))).any(axis=1)


def _symbols_of_puzzles(
    puzzles: np.ndarray, used: set[str], shape: BoxShape, where: Where, blank: str | None
) -> str:
    """The alphabet of puzzles without answers; `UserError` where only the user can tell what a `0` is."""
    from_one, from_zero, letters = known_alphabets(shape.size)
    if used & set(string.ascii_uppercase) and not used & set("123456789"):
        return letters
    if blank is not None:
        return from_zero if "0" in used else from_one
    if (ambiguous := ambiguous_zero(puzzles, shape)).any():
        raise UserError(
            f"{where(int(ambiguous.argmax()))} has both 0 and . in one grid: say with --blank . that 0 is one of "
            f"the symbols {_ranges(from_zero)}, or with --blank .0 that both are blanks"
        )
    return from_one


def _symbols_of_answers(used: set[str], shape: BoxShape) -> str:
    """The alphabet that full grids with these characters are written in, the nearest one if none fits."""
    return max(known_alphabets(shape.size), key=lambda symbols: len(used & set(symbols)))


def _check(cells: np.ndarray, allowed: str, where: Where, name: str, alphabet: Alphabet) -> None:
    wrong = cells.tobytes().upper().translate(None, allowed.upper().encode("latin-1"))
    if not wrong:
        return
    is_wrong = np.isin(cells, np.frombuffer(wrong + wrong.lower(), np.uint8))
    row, cell = np.argwhere(is_wrong)[0]
    character = chr(cells[row, cell])
    blanks = "" if name == "its answer" else f" and {' or '.join(alphabet.blanks)} for a blank"
    hint = "" if character.isalnum() or not blanks else f" (--blank {character} if that is one)"
    raise UserError(
        f"{where(row)}{': ' + name if name else ''} has {character!r} at character {cell + 1}; allowed are "
        f"{_ranges(alphabet.symbols)}, which this file is written in,{blanks}{hint}"
    )


def _characters(cells: np.ndarray) -> set[str]:
    """The characters among (E, S) codes, letters in upper case."""
    used = np.zeros(256, bool)
    for start in range(0, len(cells), 10_000):  # in parts: an index array takes eight bytes a cell
        used[cells[start : start + 10_000]] = True
    return {chr(code).upper() for code in np.flatnonzero(used)}


def _ranges(symbols: str) -> str:
    """Symbols in short: 1-9A-G."""
    digits = [symbol for symbol in symbols if symbol.isdigit()]
    letters = [symbol for symbol in symbols if not symbol.isdigit()]
    runs = (f"{run[0]}-{run[-1]}" if len(run) > 1 else run[0] for run in (digits, letters) if run)
    return "".join(runs)
