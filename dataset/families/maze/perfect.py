"""Perfect mazes: exactly one path between any two free cells.

As a graph with edges between adjacent free cells, such a maze is a tree.
"""

from __future__ import annotations

import numpy as np


def perfect_grid(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw the free cells, (H, W) boolean, of a perfect maze by randomised depth-first search.

    The search opens a wall only if exactly one of its neighbours is free, so that the free cells remain a tree, and
    backtracks if there is no such wall. At the end, opening any wall would close a cycle. Unlike mazes with rooms on
    every second row and column, these have no border, and even sides need no special case.
    """
    rows, columns = shape
    stride = columns + 2  # a margin of one cell on all sides, which is never opened
    size = (rows + 2) * stride
    steps = (-stride, -1, 1, stride)
    openable = np.pad(np.ones(shape, bool), 1).ravel().tolist()
    free = np.zeros(size, bool)
    num_free_neighbours = [0] * size
    # A wall with two free neighbours remains a wall, so one try per direction from each free cell is enough.
    untried = rng.permuted(np.tile(steps, (size, 1)), axis=1).tolist()
    path = []

    def open_cell(position: int) -> None:
        openable[position] = False
        free[position] = True
        for step in steps:
            num_free_neighbours[position + step] += 1
        path.append(position)

    row, column = (int(rng.integers(side)) for side in shape)
    open_cell((row + 1) * stride + column + 1)
    while path:
        if not untried[path[-1]]:
            path.pop()
            continue
        position = path[-1] + untried[path[-1]].pop()
        if openable[position] and num_free_neighbours[position] == 1:
            open_cell(position)
    return free.reshape(rows + 2, stride)[1:-1, 1:-1]
