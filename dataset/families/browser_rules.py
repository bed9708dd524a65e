"""The rules of a family as data, for a web page without Python: what may be typed, what an answer may change, counts.

Shapes: n rows, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CountRule:
    """In each group of cells of a right answer, each of the `tokens` occurs `least` to `most` times."""

    name: str
    """What a group is, in the singular: row, column, box."""
    groups: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]
    least: int = 1
    most: int = 1

    def holds(self, answers: np.ndarray) -> np.ndarray:
        """Answers (n, S) -> (n,) bool."""
        held = np.ones(len(answers), bool)
        for cells in self.groups:
            counts = (answers[:, list(cells), None] == np.array(self.tokens)).sum(1)  # (n, tokens)
            held &= ((counts >= self.least) & (counts <= self.most)).all(1)
        return held


@dataclass(frozen=True)
class BrowserRules:
    """How a page reads puzzles and judges answers: by labels only if there are neither `counts` nor a `script`."""

    characters: Mapping[str, int] = field(default_factory=dict)
    """Character -> token of typed puzzles, the preferred characters first; {} if puzzles cannot be typed."""
    ignored: str = "|-+/"
    """Characters that are skipped, and so is white space that is not in `characters`."""
    required: Mapping[int, int] = field(default_factory=dict)
    """Token -> number of cells of a question that must have it."""
    becomes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Token of a question -> tokens that an answer may have in its place; others must stay. {}: all may change."""
    counts: tuple[CountRule, ...] = ()
    """What a right answer obeys."""
    script: Path | None = None
    """JavaScript file that assigns `familyScript = {judge, remarks}`, for rules that `counts` cannot express."""

    @property
    def are_known(self) -> bool:
        """True if answers can be judged without labels."""
        return bool(self.counts) or self.script is not None

    def broken(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Mark the cells (n, S) bool in which answers contradict their questions, as the page does."""
        broken = np.zeros(questions.shape, bool)
        if self.becomes:
            broken = answers != questions
            for token, others in self.becomes.items():
                broken &= ~((questions == token) & np.isin(answers, others))
        return broken

    def obeyed(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return (n,) bool: True if answers (n, S) keep their questions and obey `counts`; `script` is not run."""
        obeyed = np.logical_not(self.broken(questions, answers).any(axis=1))
        for rule in self.counts:
            obeyed &= rule.holds(answers)
        return obeyed

    def to_json(self) -> dict[str, Any]:
        """Return the rules for the page's JavaScript, without the script."""
        return {
            "characters": dict(self.characters),
            "ignored": self.ignored,
            "required": {str(token): number for token, number in self.required.items()},
            "becomes": {str(token): list(others) for token, others in self.becomes.items()},
            "counts": [vars(rule) for rule in self.counts],
            "areKnown": self.are_known,
        }
