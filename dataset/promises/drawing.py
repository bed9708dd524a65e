"""Promises about drawing tokens, in the terminal and in pictures. Each test yields failures with an example."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from dataset.drawing import picture, terminal
from dataset.families.grid_style import GridStyle, Kind
from dataset.promises.puzzles import Puzzles


def style(puzzles: Puzzles) -> Iterator[str]:
    style, vocab_size = puzzles.family.grid_style, puzzles.vocab_size
    if style.shape != puzzles.family.shape:
        yield f"grid_style has the shape {style.shape}, the family {puzzles.family.shape}"
    if len(style.symbols) != vocab_size:
        yield f"there are {len(style.symbols)} symbols for {vocab_size} tokens"
    if style.colours.shape != (vocab_size, 3) or style.colours.dtype != np.uint8:
        yield f"colours are {style.colours.dtype} {style.colours.shape} instead of uint8 {(vocab_size, 3)}"
    named = {
        "legend": [entry.token for entry in style.legend],
        "empty_tokens": style.empty_tokens,
        "blend": style.blend or (),
        "wall": () if style.wall is None else (style.wall,),
        "ends": style.ends,
        "changed_symbols": style.changed_symbols,
    }
    for where, tokens in named.items():
        for token in tokens:
            if not 0 <= token < vocab_size:
                yield f"{where} names the token {token}, but there are {vocab_size}"
    for entry in style.legend:
        if entry.kind not in list(Kind) or not entry.words:
            yield f"the legend has the entry {entry}"
    if style.cells == "path" and style.blend is None:
        yield "cells are drawn as a path, but blend does not name the tokens of a free and of a marked cell"
    if style.cells != "symbols" and (style.colours == style.frame[0]).all(1).any():
        yield f"a token has the colour of the frame around changed cells, {style.frame[0]}"


def drawn_in_terminal(puzzles: Puzzles) -> Iterator[str]:
    style = puzzles.family.grid_style
    for colour in (False, True):
        for tokens in _every_token(puzzles):
            for kind in Kind:
                lines, width = terminal.grid_lines(style, tokens, np.full(len(tokens), kind), colour=colour)
                for line in lines:
                    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
                    if len(plain) != width or not plain.isprintable():
                        yield f"{kind.name} cells are drawn as {plain!r}, which does not take {width} columns"
        cells = [
            terminal.cell(style, token, Kind.PLAIN, colour=colour) for token in range(puzzles.vocab_size)
        ]
        yield from _duplicates(cells)
        for entry in style.legend:
            if entry.words not in terminal.legend(style, colour=colour):
                yield f"the legend does not show {entry.words!r}"


def drawn_in_pictures(puzzles: Puzzles) -> Iterator[str]:
    style = puzzles.family.grid_style
    for tokens in _every_token(puzzles):
        for kind in Kind:
            for confidence in (0, 0.5, 1):
                kinds, sure = np.full(len(tokens), kind), np.full(len(tokens), float(confidence))
                canvas, draw = picture.canvas(*(24 * side + 1 for side in reversed(style.shape)))
                picture.draw_grid(draw, style, tokens, (0, 0), 24, kinds, sure)
                if len(canvas.getcolors(canvas.width * canvas.height)) == 1:
                    yield f"{kind.name} cells leave the picture empty"
        picture.grid_picture(style, tokens)
    yield from _duplicates([_cell_picture(style, token) for token in range(puzzles.vocab_size)])


def _cell_picture(style: GridStyle, token: int) -> bytes:
    """Return a single-cell grid, which is drawn even if the family would crop it."""
    canvas, draw = picture.canvas(25, 25)
    whole = GridStyle(**{**vars(style), "shape": (1, 1), "first_cell_token": 0, "lines": None})
    picture.draw_grid(draw, whole, np.array([token]), (0, 0), 24)
    return canvas.tobytes()


def _every_token(puzzles: Puzzles) -> Iterator[np.ndarray]:
    """Yield grids (S,) that together contain every token, then a question and its answer."""
    for start in range(0, puzzles.vocab_size, puzzles.seq_len):
        yield np.resize(np.arange(start, puzzles.vocab_size), puzzles.seq_len)
    yield from puzzles.questions[:1]
    yield from puzzles.answers[:1]


def _duplicates(drawn: list[str] | list[bytes]) -> Iterator[str]:
    for token, one in enumerate(drawn):
        if (first := drawn.index(one)) < token:
            yield f"the tokens {first} and {token} look the same"
