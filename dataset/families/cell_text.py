"""Puzzles as text with one character per cell: the format of families that define `characters`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dataset.families.wording import count, describe_position, with_line_breaks
from utils.errors import UserError


def parse_cells(text: str, characters: Mapping[str, int], shape: tuple[int, int]) -> np.ndarray:
    """Parse a grid (H, W) to (H·W,) uint8 tokens; white space and `| - + /` of a drawn grid are ignored.

    Raises UserError naming the position of the first character that is not in `characters`, or the number of cells.
    """
    text, tokens = with_line_breaks(text), []
    for position, character in enumerate(text):
        if character.isspace() or character in "|-+/":
            continue
        if character not in characters:
            allowed = " ".join(characters)
            raise UserError(
                f"puzzle= has {character!r} at {describe_position(text, position)}; allowed are {allowed}, and "
                "| - + / and white space, which are ignored"
            )
        tokens.append(characters[character])
    rows, columns = shape
    if len(tokens) != rows * columns:
        raise UserError(
            f"puzzle= has {count(len(tokens), 'cell')}, but this model solves {rows}x{columns} grids with "
            f"{rows * columns} cells (| - + / and white space do not count)"
        )
    return np.array(tokens, np.uint8)


def format_cells(question: np.ndarray, characters: Mapping[str, int], shape: tuple[int, int]) -> str:
    """Format tokens (H·W,) as H lines, which `parse_cells` parses back to them."""
    symbols = symbols_of_tokens(characters)
    rows = np.asarray(question).reshape(shape)
    return "\n".join("".join(symbols[int(token)] for token in row) for row in rows)


def symbols_of_tokens(characters: Mapping[str, int]) -> dict[int, str]:
    """Return the character of each token; if several stand for one token, the first."""
    return {token: character for character, token in reversed(tuple(characters.items()))}
