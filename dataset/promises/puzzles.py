"""Puzzles with right answers to test a family on, and wrong answers derived from them.

Shapes: n puzzles, k answers to each, S cells of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset.families.base import Family
from dataset.families.labels import IGNORE_LABEL_ID

_CHANGES = 48  # per puzzle, answers with one changed cell
_SHOWN = 60  # maximum number of tokens or characters shown


@dataclass(frozen=True)
class Puzzles:
    """questions (n, S) uint8 of a family, and their labels (n, S), of any integer dtype and -100 if ignored."""

    family: Family
    questions: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def answers(self) -> np.ndarray:
        """(n, S) uint8 right answers; unlabelled cells are as in the question if `completes`, otherwise padding."""
        unlabelled = self.questions if self.family.completes else self.family.metadata.pad_id
        return np.where(self.labels == IGNORE_LABEL_ID, unlabelled, self.labels).astype(np.uint8)

    @cached_property
    def changed(self) -> tuple[np.ndarray, np.ndarray]:
        """Puzzle numbers (n·k,), and right answers (n·k, S) with one relevant labelled cell changed."""
        rng, numbers, changed = np.random.default_rng(0), [], []
        for number, answer in enumerate(self.answers):
            labelled = np.flatnonzero(self.labels[number] != IGNORE_LABEL_ID)
            for cell in rng.choice(labelled, min(len(labelled), _CHANGES), replace=False):
                other = answer.copy()
                other[cell] = (answer[cell] + rng.integers(1, self.vocab_size)) % self.vocab_size
                if not np.array_equal(self.family.counted(other), self.family.counted(answer)):
                    numbers.append(number)
                    changed.append(other)
        return np.array(numbers, np.int64), np.array(changed, np.uint8).reshape(-1, self.seq_len)

    @cached_property
    def tried(self) -> tuple[np.ndarray, np.ndarray]:
        """Puzzle numbers (m,) and answers (m, S): right, changed, unfinished, of other puzzles, and random ones."""
        numbers, changed = self.changed
        each = np.arange(len(self))
        noise = np.random.default_rng(1).integers(0, self.vocab_size, self.questions.shape).astype(np.uint8)
        kinds = [self.answers, self.questions, np.roll(self.answers, 1, axis=0), noise, np.zeros_like(noise)]
        return np.concatenate([numbers, *[each] * len(kinds)]), np.concatenate([changed, *kinds])

    @property
    def seq_len(self) -> int:
        return self.family.metadata.seq_len

    @property
    def vocab_size(self) -> int:
        return self.family.metadata.vocab_size

    def change(self, number: int, other: np.ndarray) -> str:
        """Describe how an answer differs from the right one, to end a sentence."""
        (cell, *_) = np.flatnonzero(other != self.answers[number])
        old, new = self.answers[number][cell], other[cell]
        return f"{self.named(number)} with cell {cell} of its answer changed from {old} to {new}"

    def named(self, number: int) -> str:
        """Describe a puzzle."""
        return f"puzzle {number} ({shown(self.questions[number])})"


def shown(tokens: np.ndarray) -> str:
    """Format the tokens (S,) of an example."""
    text = " ".join(map(str, tokens[:_SHOWN].tolist()))
    return f"{text} ..." if len(tokens) > _SHOWN else text


def shortened(text: str) -> str:
    """Quote a text, shortened if it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
