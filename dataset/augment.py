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
VALUE_BITS = np.uint8(31)  # bits of a Sudoku cell that hold its value, at most 25


def dihedral(grids: np.ndarray, transform: int) -> np.ndarray:
    """Apply one of the 8 dihedral symmetries to (..., H, W) `grids`; some swap the axes, to (..., W, H).

    0 identity, 1 to 3 quarter turns counterclockwise, 4 flip left-right, 5 flip up-down,
    6 transpose, 7 one quarter turn, then flip left-right. Returns a view.
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
    """Undo `dihedral(grids, transform)`."""
    return dihedral(grids, DIHEDRAL_INVERSE[transform])


def inverse_permutation(permutations: np.ndarray) -> np.ndarray:
    """Invert each permutation (..., K): `inverse[..., p[..., i]] == i`."""
    return np.argsort(permutations, axis=-1)


@dataclass(frozen=True)
class SudokuSymmetry:
    """Symmetries of N x N grids, one per element of the batch shape (...), which is () for a single one.

    Applied in this order: transpose if `transpose` (...) is set; reorder lines, so that row i is the
    former row `rows[..., i]` and column j the former column `columns[..., j]` (both (..., N)); replace each
    value v by `digits[..., v]` ((..., N+1), blank 0 is kept). Which ones are legal depends on the box
    shape (`dataset.families.sudoku.rules.random_symmetries`).
    """

    digits: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    transpose: np.ndarray

    def apply(self, grids: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """Return the images (..., N, N) of uint8 `grids`, (N, N) or one grid per symmetry.

        With `which` (...), return the images of `grids[which]` without materialising it. Bits above the values
        (32, 64, 128) move with their cell unchanged.
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
        """Return transposed and reordered grids (N, N, ...), batch last so that operations run on long rows."""
        size = self.rows.shape[-1]
        rows, columns = (np.moveaxis(a, -1, 0).copy("C") for a in (self.rows, self.columns))
        rows *= np.where(self.transpose, 1, size)
        rows += which * (size * size)
        columns *= np.where(self.transpose, size, 1)
        return np.take(grids, rows[:, None] + columns[None])

    def inverse(self) -> SudokuSymmetry:
        """Return the inverse symmetries."""
        rows, columns = inverse_permutation(self.rows), inverse_permutation(self.columns)
        swapped = np.asarray(self.transpose)[..., None]
        return SudokuSymmetry(
            inverse_permutation(self.digits).astype(self.digits.dtype),
            # Inverting "transpose, then reorder" as the same two steps swaps the row and column orders.
            np.where(swapped, columns, rows),
            np.where(swapped, rows, columns),
            self.transpose,
        )


def shuffled_bands(rng: np.random.Generator, count: int, num_bands: int, band_size: int) -> np.ndarray:
    """Draw line orders (count, num_bands·band_size) that permute bands, and lines within each band.

    Also used for stacks of columns.
    """
    bands, lines = permutations(num_bands), permutations(band_size)
    # Index into all permutations: several times faster than permuting many tiny rows. The batch comes last until the
    # end, so that operations run on long rows.
    band_order = bands.T.take(rng.integers(len(bands), size=count), axis=1)  # (num_bands, count)
    line_order = lines.T.take(rng.integers(len(lines), size=(num_bands, count)), axis=1)
    orders = band_order[:, None] * band_size + line_order.swapaxes(0, 1)
    return np.ascontiguousarray(orders.reshape(-1, count).T)


@lru_cache
def permutations(length: int) -> np.ndarray:
    """Return all permutations (length!, length); intended for lengths up to 8."""
    return np.array(list(itertools.permutations(range(length))))
