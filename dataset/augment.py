"""Augmentations as pure, invertible functions `(grids, parameters) -> grids`, vectorised over batches.

Shapes: ... any leading batch dimensions, H rows, W columns, N side of a Sudoku grid, K number of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_DIHEDRAL = 8
DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


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


def permute_values(grids: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """(..., H, W) `grids` with every value v replaced by `mapping[..., v]`; colours and digits alike.

    mapping: (K,) for all grids, or (..., K) one for each of the grids.
    """
    if mapping.ndim == 1:
        return mapping[grids]
    return np.take(mapping, grids + _offsets(mapping.shape[:-1], mapping.shape[-1]))


def _offsets(batch_shape: tuple[int, ...], length: int) -> np.ndarray:
    """(*batch_shape, 1, 1): where each batch element's table of `length` entries starts in the flat array.

    One gather from flat tables is three times as fast as `take_along_axis`.
    """
    return (np.arange(math.prod(batch_shape)) * length).reshape(*batch_shape, 1, 1)


def inverse_permutation(permutations: np.ndarray) -> np.ndarray:
    """The inverse of each permutation (..., K): `inverse[..., p[..., i]] == i`."""
    return np.argsort(permutations, axis=-1)


@dataclass(frozen=True)
class SudokuSymmetry:
    """Symmetries of N x N grids, one for each element of the batch shape (...), () for a single one.

    Applied in this order: transpose where `transpose` (...) says so; reorder lines, so that row i is the
    former row `rows[..., i]` and column j the former column `columns[..., j]` (both (..., N)); replace each
    value v by `digits[..., v]` ((..., N+1), value 0 = blank kept). Which ones are legal depends on the box
    shape (`dataset.sudoku.random_symmetries`).
    """

    digits: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    transpose: np.ndarray

    def cells(self) -> np.ndarray:
        """(..., N, N): for each cell, the flat index of the cell whose content moves there."""
        size = self.rows.shape[-1]
        transpose = np.asarray(self.transpose)[..., None]
        row_part = self.rows * np.where(transpose, 1, size)
        column_part = self.columns * np.where(transpose, size, 1)
        return row_part[..., :, None] + column_part[..., None, :]

    def move(self, grids: np.ndarray) -> np.ndarray:
        """The images of (..., N, N) `grids`, values as they are; a single (N, N) grid gets all images."""
        cells = self.cells()
        if grids.ndim > 2:
            cells += _offsets(grids.shape[:-2], grids.shape[-1] ** 2)
        return np.take(grids, cells)

    def apply(self, grids: np.ndarray) -> np.ndarray:
        """The images of (..., N, N) `grids`; a single (N, N) grid gets the images of every symmetry."""
        return permute_values(self.move(grids), self.digits)

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
    bands = rng.permuted(np.broadcast_to(np.arange(num_bands), (count, num_bands)), axis=1)
    lines = np.broadcast_to(np.arange(band_size), (count, num_bands, band_size))
    return (bands[:, :, None] * band_size + rng.permuted(lines, axis=2)).reshape(count, -1)
