"""Numbers, positions and line breaks in messages about puzzles."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Format a number with a noun: `1 cell`, `2 cells`, `2 boxes`."""
    plural = "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def with_line_breaks(text: str) -> str:
    """Normalise line breaks, including a literal `\\n` passed on by a shell."""
    return text.replace("\\n", "\n").replace("\r\n", "\n")


def describe_position(text: str, position: int) -> str:
    """Format a position: `character 7`, or `line 2, character 3` if the text has several lines."""
    before = text[:position].split("\n")
    character = f"character {len(before[-1]) + 1}"
    return f"line {len(before)}, {character}" if "\n" in text else character
