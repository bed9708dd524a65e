"""ARC rows without their position in the frame, because train examples are shifted.

Legend: E rows, S cells of a sequence.
"""

from __future__ import annotations

import numpy as np

# Within a frame of 30 x 30, dense at the top left: grids may be small.
_NEAR = (0, 1, 2, 4, 6, 9, 13)
_POSITIONS = np.array([30 * row + column for row in _NEAR for column in _NEAR][1:])


def unshifted(rows: np.ndarray) -> np.ndarray:
    """(E, S) uint8: rows with their grid moved to the top left corner and without its border."""
    rows = np.where(rows > 1, rows, 0).astype(np.uint8)
    first = (rows > 0).argmax(1)  # a grid's first cell is a colour
    moved = np.flatnonzero(first)
    count, length = rows.shape
    padded = np.zeros(count * length + length, np.uint8)
    padded[: rows.size] = rows.reshape(-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[moved * length + first[moved]]
    # What a window shows beyond its own row belongs to the next one.
    windows *= np.arange(length, dtype=np.int16) < (length - first[moved, None]).astype(np.int16)
    rows[moved] = windows
    return rows


def sample_of_unshifted(rows: np.ndarray) -> np.ndarray:
    """(E, 48) uint8: cells of what `unshifted` makes of rows (E, S), without making it."""
    rows = np.ascontiguousarray(rows)
    count, length = rows.shape
    positions = (rows > 1).argmax(1)[:, None] + _POSITIONS
    inside = positions < length
    positions = np.minimum(positions, length - 1, out=positions)
    positions += length * np.arange(count)[:, None]
    cells = rows.reshape(-1).take(positions)
    return np.where(inside & (cells > 1), cells, 0).astype(np.uint8, copy=False)
