"""Drawing style of the tokens of a puzzle family: plain data, shared by terminal, PNG, GIF and web page.

Shapes: V vocabulary, S cells of a sequence, H and W rows and columns of a grid.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np


class Kind(IntEnum):
    """State of a cell in the answer of one step; larger values take precedence."""

    PLAIN = 0
    FILLED = 1  # differs from the question, but not from the step before
    CHANGED = 2
    BROKEN = 3


@dataclass(frozen=True)
class LegendEntry:
    """A sample cell and the meaning of its mark or colour."""

    token: int
    kind: Kind
    words: str


COMPLETION_WORDS = ("given", "filled in", "changed in this step", "given, but changed")  # of each `Kind`


@dataclass(frozen=True)
class GridStyle:
    """Symbols, colours and lines of a family's grids.

    `cells` chooses how pictures show a cell and the confidence of the model:

    - `symbols`: the symbol on white, shaded by confidence; given cells are grey.
    - `colours`: the colour is the answer; a white dot grows as confidence falls.
    - `path`: coloured cells, with symbols only at the given ends; cells in `blend` are tinted with the path colour.
    """

    shape: tuple[int, int]
    symbols: str
    """One character for each token, padding first."""
    colours: np.ndarray
    """(V, 3) uint8 RGB."""
    cells: Literal["symbols", "colours", "path"] = "symbols"
    coloured_symbols: bool = False
    """`colours`: also write the symbol into the cell."""
    lines: tuple[int, int] | None = None
    """Number of rows and columns between thick lines, such as the sides of Sudoku boxes."""
    empty_tokens: frozenset[int] = frozenset({0})
    """Tokens of empty cells, drawn without a symbol."""
    first_cell_token: int = 0
    """Grids are cropped to the cells with tokens from this one on; 0 draws all cells. ARC crops its frame."""
    blend: tuple[int, int] | None = None
    """`path`: the tokens of a free cell and of a path cell."""
    wall: int | None = None
    """`path`: the token that the terminal shows in grey."""
    ends: frozenset[int] = frozenset()
    """`path`: tokens whose symbol is written into the cell."""
    changed_symbols: Mapping[int, str] = field(default_factory=dict)
    """`path`: symbols of tokens that have just changed, in a terminal without colours."""
    legend: tuple[LegendEntry, ...] = (LegendEntry(2, Kind.CHANGED, "changed in this step"),)
    shade: str = "bold on grey: given; darker blue: more certain"
    """Explanation of the shades in pictures."""
    frame: tuple[tuple[int, int, int], str] = ((232, 110, 0), "orange")
    """Colour of the frame around a changed cell, which no cell may have, and its name."""

    @property
    def narrow(self) -> bool:
        """True if a cell takes one column of the terminal instead of two."""
        return self.cells == "path"

    def window(self, tokens: np.ndarray) -> tuple[slice, slice]:
        """Return the rows and columns of the grid (H, W) that are drawn for tokens (S,)."""
        rows, columns = np.nonzero(np.asarray(tokens).reshape(self.shape) >= max(1, self.first_cell_token))
        if not self.first_cell_token or not len(rows):
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)

    def known(self, tokens: np.ndarray) -> np.ndarray:
        """Return the tokens as (S,) int64, with 0 in place of invalid ones such as ignored labels."""
        tokens = np.asarray(tokens).astype(np.int64)
        return np.where((tokens >= 0) & (tokens < len(self.symbols)), tokens, 0)


def completion_legend(token: int, words: Iterable[str] = COMPLETION_WORDS) -> tuple[LegendEntry, ...]:
    """Return the legend of puzzles with blank cells to fill in; sample cells show `token`."""
    return tuple(LegendEntry(token, kind, text) for kind, text in zip(Kind, words, strict=True))


def completion_style(
    shape: tuple[int, int], vocab_size: int, blank: int, symbols: Mapping[int, str]
) -> GridStyle:
    """Return a style for puzzles with blank cells to fill in: the symbol of each token on white."""
    others = iter(distinct_colours(vocab_size))
    return GridStyle(
        shape,
        "".join(symbols.get(token, "?" if token else " ") for token in range(vocab_size)),
        rgb((EMPTY, *(BLANK if token == blank else next(others) for token in range(1, vocab_size)))),
        empty_tokens=frozenset({blank}),
        legend=completion_legend(next(token for token in symbols if token != blank)),
    )


def colour_style(shape: tuple[int, int], vocab_size: int) -> GridStyle:
    """Return a style for puzzles of an unknown family: coloured cells with a symbol per token."""
    known = _GENERIC_SYMBOLS[:vocab_size]
    return GridStyle(
        shape,
        known + "?" * (vocab_size - len(known)),
        rgb((EMPTY, *distinct_colours(vocab_size - 1))),
        cells="colours",
        coloured_symbols=True,
        legend=(),
        shade="white dots: the larger, the less certain",
    )


_GENERIC_SYMBOLS = ".0123456789abcdefghijklmnopqrstuvwxyz"
EMPTY, BLANK = 0x18181C, 0x2A2C34  # dark colours for padding and for blank cells


def rgb(colours: Iterable[int]) -> np.ndarray:
    """Convert colours from 0xRRGGBB to (n, 3) uint8."""
    return np.array([[c >> 16, c >> 8 & 255, c & 255] for c in colours], np.uint8)


def distinct_colours(count: int) -> list[int]:
    """Return colours, as 0xRRGGBB, such that successive ones are easy to distinguish."""
    golden = 0.61803398875
    values = [colorsys.hsv_to_rgb(i * golden % 1, 0.45 + 0.2 * (i % 2), 0.95) for i in range(count)]
    return [int(r * 255) << 16 | int(g * 255) << 8 | int(b * 255) for r, g, b in values]
