"""Augmentations as pure, invertible functions `(grids, parameters) -> grids`, vectorised over batches.

Shapes: ... any leading batch dimensions, H rows, W columns, N side of a Sudoku grid, K number of values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NUM_DIHEDRAL = 8
DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
VALUE_BITS = np.uint8(31)  # of a Sudoku cell, whose values are at most 25


def dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    """(..., H, W) `grids` under one of the 8 symmetries of the rectangle's frame, (..., W, H) for odd turns.

    0 identity, 1 to 3 that many quarter turns against the clock, 4 flip left-right, 5 flip up-down,
    6 transpose, 7 flip left-right of one quarter turn. Returns a view.
    """
    if transform not in range(NUM_DIHEDRAL):
        raise ValueError(f"dihedral transform is {transform}: it must be one of 0 to {NUM_DIHEDRAL - 1}")
    if transform < 4:
        return np.rot90(grids, transform, axes=(-2, -1))
    if transform == 4:
        return np.flip(grids, -1)
    if transform == 5:
        return np.flip(grids, -2)
    if transform == 6:
        return np.swapaxes(grids, -2, -1)
    return np.flip(np.rot90(grids, 1, axes=(-2, -1)), -1)


def inverse_dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    """Undoes `dihedral(grids, transform)`."""
    return dihedral(grids, DIHEDRAL_INVERSE[transform])


def inverse_permutation(permutations: np.ndarray) -> np.ndarray:
    """The inverse of each permutation (..., K): `inverse[..., p[..., i]] == i`."""
    return np.argsort(permutations, axis=-1)


@dataclass(frozen=True)
class SudokuSymmetry:
    """Symmetries of N x N grids, one for each element of the batch shape (...), () for a single one.

    Applied in this order: transpose where `transpose` (...) says so; reorder lines, so that row i is the
    former row `rows[..., i]` and column j the former column `columns[..., j]` (both (..., N)); replace each
    value v by `digits[..., v]` ((..., N+1), value 0 = blank kept). Which ones are legal depends on the box
    shape (`dataset.families.sudoku.rules.random_symmetries`).
    """

    digits: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    transpose: np.ndarray

    def apply(self, grids: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """The (..., N, N) images of uint8 `grids`: (N, N), or one for each of the symmetries.

        which (...): the images of `grids[which]`, without making that array. Bits above the values (32, 64,
        128) move with their cell and stay as they are.
        """
        if which is None and grids.ndim > 2:
            which = np.arange(len(self.rows.reshape(-1, self.rows.shape[-1]))).reshape(self.rows.shape[:-1])
        moved = self._moved(grids, 0 if which is None else which)
        values = moved & VALUE_BITS
        images = moved - values
        digits = np.ascontiguousarray(np.moveaxis(self.digits, -1, 0), np.uint8)
        for value in range(1, len(digits)):
            images |= (values == value) * digits[value]
        return np.ascontiguousarray(np.moveaxis(images, (0, 1), (-2, -1)))

    def _moved(self, grids: np.ndarray, which: np.ndarray | int) -> np.ndarray:
        """(N, N, ...) transposed and reordered grids: with the batch last, operations run on long rows."""
        size = self.rows.shape[-1]
        rows, columns = (np.moveaxis(a, -1, 0).copy("C") for a in (self.rows, self.columns))
        rows *= np.where(self.transpose, 1, size)
        rows += which * (size * size)
        columns *= np.where(self.transpose, size, 1)
        return np.take(grids, rows[:, None] + columns[None])

    def inverse(self) -> SudokuSymmetry:
        """The symmetries that undo these."""
        rows, columns = inverse_permutation(self.rows), inverse_permutation(self.columns)
        swapped = np.asarray(self.transpose)[..., None]
        return SudokuSymmetry(
            inverse_permutation(self.digits).astype(self.digits.dtype),
            # Undoing "transpose, then reorder" by the same two steps exchanges the roles of the orders.
            np.where(swapped, columns, rows),
            np.where(swapped, rows, columns),
            self.transpose,
        )


def shuffled_bands(rng: np.random.Generator, count: int, num_bands: int, band_size: int) -> np.ndarray:
    """(count, num_bands·band_size) random orders of lines that keep bands together.

    Bands change places and the lines within each band do; the same for stacks of columns.
    """
    bands, lines = permutations(num_bands), permutations(band_size)
    # Indices into all permutations: several times as fast as permuting so many tiny rows. The batch comes last
    # until the end, for operations on long rows.
    band_order = bands.T.take(rng.integers(len(bands), size=count), axis=1)  # (num_bands, count)
    line_order = lines.T.take(rng.integers(len(lines), size=(num_bands, count)), axis=1)
    orders = band_order[:, None] * band_size + line_order.swapaxes(0, 1)
    return np.ascontiguousarray(orders.reshape(-1, count).T)


@lru_cache
def permutations(length: int) -> np.ndarray:
    """(length!, length) all permutations; meant for lengths up to 8."""
    return np.array(list(itertools.permutations(range(length))))
