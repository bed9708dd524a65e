"""Draw grids in the terminal, marking filled, changed and broken cells, with or without colours.

Shapes: S cells of a sequence.
"""

from __future__ import annotations

import os
from typing import TextIO

import numpy as np

from dataset.families.grid_style import GridStyle, Kind

GAP = "    "  # between grids side by side

# Without colours, a mark follows each symbol.
MARKS = {Kind.PLAIN: " ", Kind.FILLED: "'", Kind.CHANGED: "*", Kind.BROKEN: "!"}
# ANSI styles: bold, cyan, black on yellow, white on red.
STYLES = {Kind.PLAIN: "1", Kind.FILLED: "36", Kind.CHANGED: "30;43", Kind.BROKEN: "97;41"}
_GREY = "90"


def wants_colour(out: TextIO) -> bool:
    """True if `out` is a terminal that shows colours and NO_COLOR is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def grid_lines(
    style: GridStyle, tokens: np.ndarray, kind: np.ndarray | None = None, *, colour: bool
) -> tuple[list[str], int]:
    """Return the lines of a grid of tokens (S,), with cells marked by kind (S,), and their width in columns."""
    known = style.known(tokens)
    kind = np.full(len(known), Kind.PLAIN) if kind is None else kind
    if style.first_cell_token and not (known >= style.first_cell_token).any():
        return ["no grid"], len("no grid")
    window = style.window(known)
    parts = (values.reshape(style.shape)[window] for values in (known, kind))
    rows = [
        [cell(style, int(token), Kind(mark), colour=colour) for token, mark in zip(*row, strict=True)]
        for row in zip(*parts, strict=True)
    ]
    width = len(rows[0]) * (1 if style.narrow else 2)
    if style.lines is None:
        return ["".join(row) for row in rows], width
    return _with_lines(rows, style.lines), width + 2 * (-(-len(rows[0]) // style.lines[1]) - 1)


def _with_lines(rows: list[list[str]], lines: tuple[int, int]) -> list[str]:
    """Join cells into rows, with lines between boxes."""
    height, width = lines
    starts, drawn = range(0, len(rows[0]), width), []
    for number, row in enumerate(rows):
        if number and number % height == 0:
            drawn.append("+-".join("--" * len(row[start : start + width]) for start in starts))
        drawn.append("| ".join("".join(row[start : start + width]) for start in starts))
    return drawn


def cell(style: GridStyle, token: int, kind: Kind, *, colour: bool) -> str:
    """Format a cell: one column wide in narrow styles, otherwise two."""
    symbol = style.symbols[token]
    if style.cells == "path":
        if not colour:
            changed = style.changed_symbols.get(token, symbol)
            return {Kind.BROKEN: "!", Kind.CHANGED: changed}.get(kind, symbol)
        plain = _GREY if token == style.wall else STYLES[Kind.PLAIN]
        return _styled(symbol, plain if kind == Kind.PLAIN else STYLES[kind])
    if style.cells == "symbols":
        symbol = "?" if token == 0 else symbol  # padding, which should not occur in an answer
        return _styled(symbol, STYLES[kind]) + " " if colour else symbol + MARKS[kind]
    text = symbol + MARKS[kind]
    if not colour or token == 0:
        return text
    red, green, blue = (int(part) for part in style.colours[token])
    ink = 30 if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else 97
    return _styled(text, f"{ink};48;2;{red};{green};{blue}")


def legend(style: GridStyle, *, colour: bool) -> str:
    """Explain the marks or colours."""
    samples = (
        (cell(style, entry.token, entry.kind, colour=colour).rstrip(), entry.words) for entry in style.legend
    )
    return "  ".join(f"{sample} {words}" for sample, words in samples)


class GridPrinter:
    """Write the grids of one family to `out`, as many side by side as fit in `width` columns."""

    def __init__(self, style: GridStyle, out: TextIO, *, colour: bool, width: int):
        self.style, self.out, self.colour, self.width = style, out, colour, width
        self._waiting: list[tuple[int, list[str]]] = []  # (width, lines) of each grid

    def say(self, text: str) -> None:
        """Write a line below the grids so far."""
        self.flush()
        print(text, file=self.out, flush=True)

    def show(self, title: list[str], tokens: np.ndarray, kind: np.ndarray | None = None) -> None:
        """Show tokens (S,) below the title lines, with cells marked by kind (S,), default plain."""
        grid, width = grid_lines(self.style, tokens, kind, colour=self.colour)
        room = max(width, *map(len, title))
        lines = [f"{line:{room}}" for line in title] + [line + " " * (room - width) for line in grid]
        if sum(taken + len(GAP) for taken, _ in self._waiting) + room > self.width:
            self.flush()
        self._waiting.append((room, lines))

    def flush(self) -> None:
        """Write the grids that are waiting to be placed side by side."""
        for row in range(max((len(lines) for _, lines in self._waiting), default=0)):
            parts = [lines[row] if row < len(lines) else " " * width for width, lines in self._waiting]
            print(GAP.join(parts).rstrip(), file=self.out)
        if self._waiting:
            print(file=self.out, flush=True)
        self._waiting = []

    def legend(self) -> str:
        """Explain the marks or colours."""
        return legend(self.style, colour=self.colour)


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
