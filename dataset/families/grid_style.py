"""How the tokens of a puzzle family are drawn. Plain data: one drawer each for terminal, PNG, GIF and page reads it.

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
    """What a cell is in the answer of one step; a later one takes precedence."""

    PLAIN = 0
    FILLED = 1  # differs from the question, but not from the step before
    CHANGED = 2
    BROKEN = 3


@dataclass(frozen=True)
class LegendEntry:
    """A sample cell and what its marks or colours mean."""

    token: int
    kind: Kind
    words: str


COMPLETION_WORDS = ("given", "filled in", "changed in this step", "given, but changed")  # of each `Kind`


@dataclass(frozen=True)
class GridStyle:
    """Symbols, colours and lines of a family's grids.

    `cells` chooses how a picture shows a cell and how sure the model is of it:

    - `symbols`: the symbol on white, shaded by confidence; given cells are grey.
    - `colours`: the colour is the answer, with a white dot that is larger where the model is less sure.
    - `path`: coloured cells, symbols only at the given ends; a cell of `blend` takes a share of the marked colour.
    """

    shape: tuple[int, int]
    symbols: str
    """One character for each token, padding first."""
    colours: np.ndarray
    """(V, 3) uint8 RGB."""
    cells: Literal["symbols", "colours", "path"] = "symbols"
    coloured_symbols: bool = False
    """`colours`: write the symbol into the cell too."""
    lines: tuple[int, int] | None = None
    """Rows and columns after which a thick line is drawn, such as the sides of a Sudoku's boxes."""
    empty_tokens: frozenset[int] = frozenset({0})
    """Tokens of a cell that holds nothing, drawn without a symbol."""
    first_cell_token: int = 0
    """Grids are cropped to the cells with at least this token: 0 draws all of them, ARC crops its frame."""
    blend: tuple[int, int] | None = None
    """`path`: the tokens of a free and of a marked cell."""
    wall: int | None = None
    """`path`: the token that the terminal shows in grey."""
    ends: frozenset[int] = frozenset()
    """`path`: tokens whose symbol is written into the cell."""
    changed_symbols: Mapping[int, str] = field(default_factory=dict)
    """`path`: what stands for a token that has just changed, in a terminal without colours."""
    legend: tuple[LegendEntry, ...] = (LegendEntry(2, Kind.CHANGED, "changed in this step"),)
    shade: str = "bold on grey: given; the bluer, the surer"
    """What a picture's shades mean."""
    frame: tuple[tuple[int, int, int], str] = ((232, 110, 0), "orange")
    """Colour of the frame around a changed cell, one that no cell has, and its name."""

    @property
    def narrow(self) -> bool:
        """True if a cell takes one column of the terminal instead of two."""
        return self.cells == "path"

    def window(self, tokens: np.ndarray) -> tuple[slice, slice]:
        """The rows and columns of the grid (H, W) that are drawn of tokens (S,): those of the grid in a frame."""
        rows, columns = np.nonzero(np.asarray(tokens).reshape(self.shape) >= max(1, self.first_cell_token))
        if not self.first_cell_token or not len(rows):
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)

    def known(self, tokens: np.ndarray) -> np.ndarray:
        """(S,) int64: the tokens, with 0 in place of what is none, such as an ignored label."""
        tokens = np.asarray(tokens).astype(np.int64)
        return np.where((tokens >= 0) & (tokens < len(self.symbols)), tokens, 0)


def completion_legend(token: int, words: Iterable[str] = COMPLETION_WORDS) -> tuple[LegendEntry, ...]:
    """The legend of puzzles that an answer completes, with `token` in the sample cells."""
    return tuple(LegendEntry(token, kind, text) for kind, text in zip(Kind, words, strict=True))


EMPTY, BLANK = 0x18181C, 0x2A2C34  # dark colours for padding and for a cell to be filled


def rgb(colours: Iterable[int]) -> np.ndarray:
    """(n, 3) uint8 of colours written as 0xRRGGBB."""
    return np.array([[c >> 16, c >> 8 & 255, c & 255] for c in colours], np.uint8)


def distinct_colours(count: int) -> list[int]:
    """Colours, as 0xRRGGBB, of which neighbouring ones are easy to tell apart."""
    golden = 0.61803398875
    values = [colorsys.hsv_to_rgb(i * golden % 1, 0.45 + 0.2 * (i % 2), 0.95) for i in range(count)]
    return [int(r * 255) << 16 | int(g * 255) << 8 | int(b * 255) for r, g, b in values]
