"""Grids in the terminal: what a model filled in, what it changed in a step, what it broke; with colours or without.

Shapes: S cells of a sequence.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TextIO

import numpy as np

from dataset import arc, maze
from dataset.look import Look
from evaluators.families import Family

GAP = "    "  # between grids side by side


class Kind(IntEnum):
    """What a cell is in the answer of one step; the later ones win."""

    PLAIN = 0
    FILLED = 1  # not as in the question, but as in the step before
    CHANGED = 2
    BROKEN = 3


# Without colours a mark follows each symbol.
MARKS = {Kind.PLAIN: " ", Kind.FILLED: "'", Kind.CHANGED: "*", Kind.BROKEN: "!"}
# ANSI styles: bold, cyan, black on yellow, white on red.
STYLES = {Kind.PLAIN: "1", Kind.FILLED: "36", Kind.CHANGED: "30;43", Kind.BROKEN: "97;41"}
_GREY = "90"


def kinds(
    family: Family, question: np.ndarray, previous: np.ndarray | None, answer: np.ndarray
) -> np.ndarray:
    """(S,) `Kind` of each cell of an answer (S,) that follows `previous`."""
    kind = np.full(len(answer), Kind.PLAIN)
    if family.completes:
        kind[answer != question] = Kind.FILLED
    if previous is not None:
        kind[answer != previous] = Kind.CHANGED
    kind[family.broken(question, answer)] = Kind.BROKEN
    return kind


def wants_colour(out: TextIO) -> bool:
    """Whether `out` is a terminal that shows colours and its user has not said NO_COLOR."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class GridPrinter:
    """Writes the grids of one family to `out`, as many side by side as `width` columns hold."""

    def __init__(self, look: Look, out: TextIO, *, colour: bool, width: int):
        self.look, self.out, self.colour, self.width = look, out, colour, width
        self._waiting: list[tuple[int, list[str]]] = []  # width and lines of each grid

    def say(self, text: str) -> None:
        """Write a line, below the grids so far."""
        self.flush()
        print(text, file=self.out, flush=True)

    def show(self, title: list[str], tokens: np.ndarray, kind: np.ndarray | None = None) -> None:
        """Show tokens (S,) below the lines of a title, each cell by its kind (S,), by default plain."""
        kind = np.full(len(tokens), Kind.PLAIN) if kind is None else kind
        grid, width = self._grid(tokens, kind)
        room = max(width, *map(len, title))
        lines = [f"{line:{room}}" for line in title] + [line + " " * (room - width) for line in grid]
        if sum(taken + len(GAP) for taken, _ in self._waiting) + room > self.width:
            self.flush()
        self._waiting.append((room, lines))

    def flush(self) -> None:
        """Write the grids that wait for others to stand beside them."""
        for row in range(max((len(lines) for _, lines in self._waiting), default=0)):
            parts = [lines[row] if row < len(lines) else " " * width for width, lines in self._waiting]
            print(GAP.join(parts).rstrip(), file=self.out)
        if self._waiting:
            print(file=self.out, flush=True)
        self._waiting = []

    def legend(self) -> str:
        """What the marks or colours mean."""
        if self.look.family == "maze":
            samples = [
                (maze.PATH, Kind.FILLED, "on the path"),
                (maze.PATH, Kind.CHANGED, "since this step"),
                (maze.FREE, Kind.CHANGED, "no longer"),
                (maze.WALL, Kind.BROKEN, "not as in the maze"),
            ]
        elif self.look.family == "sudoku":
            words = ("given", "filled in", "changed in this step", "given, but changed")
            samples = [(2, kind, text) for kind, text in zip(Kind, words, strict=True)]
        else:
            samples = [(arc.FIRST_COLOUR, Kind.CHANGED, "changed in this step")]
        return "  ".join(f"{self._cell(token, kind).rstrip()} {words}" for token, kind, words in samples)

    def _grid(self, tokens: np.ndarray, kind: np.ndarray) -> tuple[list[str], int]:
        """The lines of a grid and the columns they take."""
        look = self.look
        rows = [
            [self._cell(int(token), Kind(mark)) for token, mark in zip(*row, strict=True)]
            for row in zip(tokens.reshape(look.shape), kind.reshape(look.shape), strict=True)
        ]
        if look.family == "maze":
            return ["".join(row) for row in rows], look.shape[1]
        if look.box is not None:
            return self._boxes(rows)
        columns = look.shape[1]
        if look.family == "arc":  # most of the frame is padding
            if not tokens.any():
                return ["no grid"], len("no grid")
            used_rows, used_columns = np.nonzero(tokens.reshape(look.shape) != arc.PAD)
            columns = int(used_columns.max(initial=0)) + 1
            rows = [row[:columns] for row in rows[: int(used_rows.max(initial=0)) + 1]]
        return ["".join(row) for row in rows], 2 * columns

    def _boxes(self, rows: list[list[str]]) -> tuple[list[str], int]:
        box = self.look.box
        per_row = box.size // box.columns
        lines = []
        for number, row in enumerate(rows):
            if number and number % box.rows == 0:
                lines.append("+-".join(["-" * (2 * box.columns)] * per_row))
            parts = [row[start : start + box.columns] for start in range(0, box.size, box.columns)]
            lines.append("| ".join("".join(part) for part in parts))
        return lines, 2 * box.size + 2 * (per_row - 1)

    def _cell(self, token: int, kind: Kind) -> str:
        """One cell: a column wide in mazes, which are large, elsewhere two."""
        symbol = self.look.symbols[token]
        if self.look.family == "maze":
            if not self.colour:
                return _maze_symbol(token, kind, symbol)
            plain = _GREY if token == maze.WALL else STYLES[Kind.PLAIN]
            return _styled(symbol, plain if kind == Kind.PLAIN else STYLES[kind])
        if self.look.family == "sudoku":
            symbol = "?" if token == 0 else symbol  # padding, which no answer should hold
            return _styled(symbol, STYLES[kind]) + " " if self.colour else symbol + MARKS[kind]
        text = symbol + MARKS[kind]
        if not self.colour or token == 0:
            return text
        red, green, blue = (int(part) for part in self.look.colours[token])
        ink = 30 if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else 97
        return _styled(text, f"{ink};48;2;{red};{green};{blue}")


def _maze_symbol(token: int, kind: Kind, symbol: str) -> str:
    if kind == Kind.BROKEN:
        return "!"
    if kind == Kind.CHANGED:
        return {maze.PATH: "O", maze.FREE: "-"}.get(token, symbol)
    return symbol


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
