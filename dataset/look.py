"""How the tokens of a family are shown: grids in the terminal and panels of a picture.

Legend: V vocabulary, S cells of a sequence, H and W rows and columns of a grid.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from dataset import arc, maze, sudoku
from dataset.family import box_shape, family_of
from dataset.format import Metadata
from dataset.sudoku import BoxShape

if TYPE_CHECKING:
    from PIL import Image

_GENERIC_SYMBOLS = ".0123456789abcdefghijklmnopqrstuvwxyz"
# The colours that the ARC viewers use for 0..9.
_ARC_COLOURS = (
    0x000000,
    0x0074D9,
    0xFF4136,
    0x2ECC40,
    0xFFDC00,
    0xAAAAAA,
    0xF012BE,
    0xFF851B,
    0x7FDBFF,
    0x870C25,
)
_MAZE_COLOURS = (0x000000, 0x30343F, 0xE8E6DF, 0x2ECC40, 0xFF4136, 0xFF851B)  # pad and "# SGo"
_EMPTY, _BLANK = 0x18181C, 0x2A2C34


@dataclass(frozen=True)
class Look:
    """The symbol and colour (V, 3) of each token, the grid they form, and whether the symbols must be legible."""

    family: str
    shape: tuple[int, int]
    symbols: str
    colours: np.ndarray
    legible: bool
    box: BoxShape | None = None
    reason: str = ""  # why the family is what it is, or is unknown, as the end of a sentence

    @classmethod
    def of(cls, metadata: Metadata) -> Look:
        """The look of a dataset of this metadata's family (`dataset.family`), "unknown" if it has none."""
        found, shape = family_of(metadata), _grid_shape(metadata)
        family, reason = found.name or "unknown", found.reason
        if family == "sudoku":
            box = box_shape(metadata)
            symbols = " ." + sudoku.SYMBOLS[: box.size]
            return cls(family, shape, symbols, _rgb((_EMPTY, _BLANK, *_hues(box.size))), True, box, reason)
        if family == "maze":
            return cls(family, shape, "?" + maze.SYMBOLS, _rgb(_MAZE_COLOURS), False, None, reason)
        if family == "arc":
            digits = "".join(map(str, range(arc.NUM_COLOURS)))
            return cls(
                family, shape, " |" + digits, _rgb((_EMPTY, _BLANK, *_ARC_COLOURS)), False, None, reason
            )
        known = _GENERIC_SYMBOLS[: metadata.vocab_size]
        symbols = known + "?" * (metadata.vocab_size - len(known))
        colours = _rgb((_EMPTY, *_hues(metadata.vocab_size - 1)))
        return cls(family, shape, symbols, colours, True, None, reason)

    def grid(self, tokens: np.ndarray) -> np.ndarray:
        """(H, W) tokens of a row (S,), ignored labels outside the vocabulary as 0; of ARC without the frame."""
        grid = np.asarray(tokens).reshape(self.shape).astype(np.int64)
        grid = np.where((grid >= 0) & (grid < len(self.symbols)), grid, 0)
        if self.family != "arc" or not (grid >= arc.FIRST_COLOUR).any():
            return grid
        rows, columns = np.nonzero(grid >= arc.FIRST_COLOUR)
        return grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]

    def text(self, tokens: np.ndarray, *, colour: bool) -> list[str]:
        """Lines that show a row of tokens; with ANSI colours or in plain symbols."""
        grid = self.grid(tokens)
        if not colour:
            gap = " " if self.legible else ""
            return [gap.join(self.symbols[token] for token in row) for row in grid]
        if self.legible:
            return ["".join(self._cell(token) for token in row) + _RESET for row in grid]
        # Two rows a line: the upper half of a block in the foreground colour, the lower in the background's.
        if len(grid) % 2:
            grid = np.concatenate([grid, np.zeros_like(grid[:1])])
        return [
            "".join(
                _foreground(self.colours[upper]) + _background(self.colours[lower]) + "▀"
                for upper, lower in pair
            )
            + _RESET
            for pair in (
                zip(above, below, strict=True) for above, below in zip(grid[::2], grid[1::2], strict=True)
            )
        ]

    def width(self, tokens: np.ndarray) -> int:
        """Columns of the terminal that `text` takes."""
        columns = self.grid(tokens).shape[1]
        return 2 * columns if self.legible else columns

    def picture(self, tokens: np.ndarray) -> Image.Image:
        """A row of tokens as coloured cells, with their symbols where these must be legible."""
        from PIL import Image, ImageDraw, ImageFont

        grid = self.grid(tokens)
        size = 17 if self.legible else 7
        pixels = np.repeat(np.repeat(self.colours[grid], size, axis=0), size, axis=1)
        pixels[size - 1 :: size] //= 2  # thin lines between the cells
        pixels[:, size - 1 :: size] //= 2
        if self.box:
            pixels[self.box.rows * size - 1 :: self.box.rows * size] = 0
            pixels[:, self.box.columns * size - 1 :: self.box.columns * size] = 0
        picture = Image.fromarray(pixels)
        if self.legible:
            draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
            for (row, column), token in np.ndenumerate(grid):
                symbol, middle = self.symbols[token], (column * size + size // 2, row * size + size // 2)
                if symbol not in " .":
                    draw.text(middle, symbol, tuple(_ink(self.colours[token]).tolist()), font, anchor="mm")
        return picture

    def _cell(self, token: int) -> str:
        rgb = self.colours[token]
        return f"{_background(rgb)}{_foreground(_ink(rgb))}{self.symbols[token]} "


_RESET = "\x1b[0m"


def _foreground(rgb: np.ndarray) -> str:
    return "\x1b[38;2;{};{};{}m".format(*rgb)


def _background(rgb: np.ndarray) -> str:
    return "\x1b[48;2;{};{};{}m".format(*rgb)


def _ink(rgb: np.ndarray) -> np.ndarray:
    """Black or light grey, whichever is legible on the colour."""
    luminance = np.dot(rgb, (0.299, 0.587, 0.114))
    return np.array([0, 0, 0] if luminance > 110 else [200, 200, 200], np.uint8)


def _rgb(colours: tuple[int, ...]) -> np.ndarray:
    return np.array([[c >> 16, c >> 8 & 255, c & 255] for c in colours], np.uint8)


def _hues(count: int) -> list[int]:
    """Colours that neighbouring numbers make easy to tell apart."""
    golden = 0.61803398875
    rgb = [colorsys.hsv_to_rgb(i * golden % 1, 0.45 + 0.2 * (i % 2), 0.95) for i in range(count)]
    return [int(r * 255) << 16 | int(g * 255) << 8 | int(b * 255) for r, g, b in rgb]


def _grid_shape(metadata: Metadata) -> tuple[int, int]:
    shape = metadata.extra.get("grid_shape")
    if shape and shape[0] * shape[1] == metadata.seq_len:
        return shape[0], shape[1]
    size = isqrt(metadata.seq_len)
    return (size, size) if size * size == metadata.seq_len else (1, metadata.seq_len)
