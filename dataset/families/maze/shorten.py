"""Make training mazes easier (`reveal_prob`): move start and goal along the answer.

The rest of the answer is still a shortest path, and still the one that the rule of the published data picks (see
rules.py). Shapes: B rows of the global batch, b rows on this rank, S cells of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset.families.maze.rules import FREE, GOAL, PATH, START, path_cells


@dataclass(frozen=True)
class ShorterPaths:
    """With `probability`, shorten the path of a maze to a random segment, with start and goal at its ends.

    The number of steps and then the segment are drawn uniformly. A row whose path touches itself, which a shortest
    path never does, stays unchanged.
    """

    probability: float
    shape: tuple[int, int]

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transform inputs and labels (b, S), the rows `mine` of B = `count`; the draws are the same on all ranks."""
        shortened = (rng.random(count) < self.probability)[mine]
        lengths, positions = rng.random(count)[mine], rng.random(count)[mine]  # fractions
        inputs, labels = inputs.copy(), labels.copy()
        for row in np.flatnonzero(shortened):
            path = path_cells(labels[row].reshape(self.shape))
            if path is None:
                continue
            longest = len(path) - 1
            steps = 1 + int(lengths[row] * longest)
            first = int(positions[row] * (longest - steps + 1))
            segment = path[first : first + steps + 1]
            for tokens, mark in ((inputs[row], FREE), (labels[row], PATH)):
                tokens[path] = FREE
                tokens[segment] = mark
                tokens[segment[0]], tokens[segment[-1]] = START, GOAL
        return inputs, labels
