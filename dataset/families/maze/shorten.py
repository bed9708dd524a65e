"""Easier versions of mazes for training (`reveal_prob`): start and goal move along the answer.

What is left of the answer is still a shortest path, and still the one that the published data's rule picks (rules.py).
Shapes: B rows of the global batch, b of them on this rank, S cells of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset.families.maze.rules import FREE, GOAL, PATH, START, path_cells


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
        lengths, positions = rng.random(count)[mine], rng.random(count)[mine]  # of 1
        inputs, labels = inputs.copy(), labels.copy()
        for row in np.flatnonzero(shortened):
            path = path_cells(labels[row].reshape(self.shape))
            if path is None:
                continue
            longest = len(path) - 1
            steps = 1 + int(lengths[row] * longest)
            first = int(positions[row] * (longest - steps + 1))
            piece = path[first : first + steps + 1]
            for tokens, mark in ((inputs[row], FREE), (labels[row], PATH)):
                tokens[path] = FREE
                tokens[piece] = mark
                tokens[piece[0]], tokens[piece[-1]] = START, GOAL
        return inputs, labels
