"""Symmetries of Sudoku, applied to tokens. Shapes: n rows, N side of the grid, S = N² cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataset.augment import SudokuSymmetry
from dataset.families.sudoku.rules import BoxShape, random_symmetries
from dataset.families.symmetry import Symmetries


@dataclass(frozen=True)
class SudokuTransforms:
    """Symmetries of token grids, one for each of n rows."""

    box: BoxShape
    of_tokens: SudokuSymmetry

    @classmethod
    def of_values(cls, box: BoxShape, symmetry: SudokuSymmetry) -> SudokuTransforms:
        """Convert from values to tokens, which are one larger; padding (0) stays, because answers may contain it."""
        padding = np.zeros_like(symmetry.digits[:, :1])
        return cls(box, replace(symmetry, digits=np.concatenate([padding, symmetry.digits + 1], axis=1)))

    def __getitem__(self, rows: slice | np.ndarray) -> SudokuTransforms:
        symmetry = self.of_tokens
        fields = (symmetry.digits, symmetry.rows, symmetry.columns, symmetry.transpose)
        return SudokuTransforms(self.box, SudokuSymmetry(*(field[rows] for field in fields)))

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        grids = tokens.astype(np.uint8).reshape(-1, self.box.size, self.box.size)
        return self.of_tokens.apply(grids).reshape(tokens.shape).astype(tokens.dtype, copy=False)

    def inverse(self) -> SudokuTransforms:
        return SudokuTransforms(self.box, self.of_tokens.inverse())


@dataclass(frozen=True)
class SudokuSymmetries(Symmetries):
    """Permutations of digits, bands, stacks and the lines within them; and transposition if boxes are square."""

    box: BoxShape

    def draw(self, rng: np.random.Generator, count: int) -> SudokuTransforms:
        return SudokuTransforms.of_values(self.box, random_symmetries(rng, count, self.box))

    def draw_copies(self, rngs: Sequence[np.random.Generator], count: int) -> SudokuTransforms:
        lines = np.arange(self.box.size)[None]
        identity = SudokuSymmetry(np.arange(self.box.size + 1)[None], lines, lines, np.zeros(1, bool))
        drawn = [random_symmetries(rng, count - 1, self.box) for rng in rngs]

        def every(name: str) -> np.ndarray:
            parts = [part for one in drawn for part in (getattr(identity, name), getattr(one, name))]
            return np.concatenate(parts)

        joined = SudokuSymmetry(every("digits"), every("rows"), every("columns"), every("transpose"))
        return SudokuTransforms.of_values(self.box, joined)
