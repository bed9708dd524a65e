"""Easier versions of training puzzles, which take nothing but the puzzle's own answer.

In Sudoku some cells of the answer are shown in the question. In a maze start and goal move along the answer: what is
left of it is still a shortest path, and still the one that the published data's rule picks (dataset/maze.py).

Shapes: B rows of the global batch, b of them on this rank, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.family import family_of
from dataset.look import Look
from dataset.maze import FREE, GOAL, PATH, START, path_cells
from dataset.metadata import Metadata
from dataset.online_augment import Augmentation
from dataset.sudoku import BLANK_ID
from utils.errors import UserError

LARGEST_SHARE = 0.5  # of the blank cells of a Sudoku


@dataclass(frozen=True)
class RevealedCells:
    """With `probability` a row shows each of its blank cells with a chance of its own, drawn from 0..LARGEST_SHARE.

    The puzzle keeps its single solution, because clues that agree with a solution exclude no more than others.
    """

    probability: float

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (b, S) of the rows `mine` of B = `count`; what is drawn depends on no other rank."""
        share = np.where(rng.random(count) < self.probability, LARGEST_SHARE * rng.random(count), 0)
        shown = rng.random((count, inputs.shape[1]), dtype=np.float32)[mine] < share[mine, None]
        return np.where(shown & (inputs == BLANK_ID), labels, inputs), labels


@dataclass(frozen=True)
class ShorterPaths:
    """With `probability` a maze's answer is cut to a piece of 1 to all of its steps, start and goal at its ends.

    Each number of steps is as likely, and each piece of that many. A row whose answer touches itself, which no shortest
    path does, stays as it is.
    """

    probability: float
    shape: tuple[int, int]

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (b, S) of the rows `mine` of B = `count`; what is drawn depends on no other rank."""
        shortened = (rng.random(count) < self.probability)[mine]
        lengths, places = rng.random(count)[mine], rng.random(count)[mine]  # of 1
        inputs, labels = inputs.copy(), labels.copy()
        for row in np.flatnonzero(shortened):
            path = path_cells(labels[row].reshape(self.shape))
            if path is None:
                continue
            longest = len(path) - 1
            steps = 1 + int(lengths[row] * longest)
            first = int(places[row] * (longest - steps + 1))
            piece = path[first : first + steps + 1]
            for tokens, mark in ((inputs[row], FREE), (labels[row], PATH)):
                tokens[path] = FREE
                tokens[piece] = mark
                tokens[piece[0]], tokens[piece[-1]] = START, GOAL
        return inputs, labels


def easier_puzzles(probability: float, described: Sequence[tuple[str, Metadata]]) -> Augmentation:
    """How the family's puzzles are made easier, for datasets that are alike.

    Raises UserError, naming the folder, if a dataset's answers do not contain those of easier puzzles.
    """
    kinds = {}
    for folder, metadata in described:
        family = family_of(metadata)
        if family.name == "sudoku":
            kind = RevealedCells(probability)
        elif family.name == "maze":
            kind = ShorterPaths(probability, Look.of(metadata).shape)
        else:
            raise UserError(
                f"{folder}: reveal_prob={probability} gives a part of the answer, which is possible with Sudoku and "
                f"mazes only, but {f'this is of family {family.name}' if family.name else family.reason}: leave it out"
            )
        kinds.setdefault(kind, folder)
    if len(kinds) > 1:
        (_, one), (_, other), *_ = kinds.items()
        raise UserError(
            f"reveal_prob={probability} needs datasets of one family and size, but {one} and {other} differ: leave "
            "it out"
        )
    return next(iter(kinds))
