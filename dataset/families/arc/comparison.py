"""Compare ARC rows independently of the position in the frame, because train examples are shifted.

Legend: E rows, S cells of a sequence.
"""

from __future__ import annotations

import numpy as np

from dataset.families.arc.grids import frame_side

# Rows and columns that are sampled, denser at the top left because grids may be small.
_NEAR = (0, 1, 2, 4, 6, 9, 13)


def unshifted(rows: np.ndarray) -> np.ndarray:
    """Move the grid of each row to the top left corner and remove its border; returns (E, S) uint8."""
    rows = np.where(rows > 1, rows, 0).astype(np.uint8)
    first = (rows > 0).argmax(1)  # the first cell of a grid is a colour
    moved = np.flatnonzero(first)
    count, length = rows.shape
    padded = np.zeros(count * length + length, np.uint8)
    padded[: rows.size] = rows.reshape(-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[moved * length + first[moved]]
    # Cells of a window beyond its row belong to the next row.
    windows *= np.arange(length, dtype=np.int16) < (length - first[moved, None]).astype(np.int16)
    rows[moved] = windows
    return rows


def sample_of_unshifted(rows: np.ndarray) -> np.ndarray:
    """Return 48 cells, (E, 48) uint8, of `unshifted(rows)` without computing all of it."""
    rows = np.ascontiguousarray(rows)
    count, length = rows.shape
    side = frame_side(length)
    near = np.array([side * row + column for row in _NEAR for column in _NEAR][1:])
    positions = (rows > 1).argmax(1)[:, None] + near
    inside = positions < length
    positions = np.minimum(positions, length - 1, out=positions)
    positions += length * np.arange(count)[:, None]
    cells = rows.reshape(-1).take(positions)
    return np.where(inside & (cells > 1), cells, 0).astype(np.uint8, copy=False)
