"""A fresh symmetric copy of an example at each draw, instead of the fixed copies that a dataset was built with.

Shapes: B rows of the global batch, b of them on this rank, S `seq_len`, N side of a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.augment import NUM_DIHEDRAL, SudokuSymmetry, dihedral
from dataset.look import Look
from dataset.metadata import Metadata
from dataset.sudoku import BoxShape, random_symmetries
from utils.errors import UserError

KEEPING_THE_FRAME = (0, 2, 4, 5)  # dihedral transforms under which a grid that is not square keeps its shape
_PAD = 128  # stands for token 0, which is no value; a bit that `SudokuSymmetry.apply` moves along

# (generator, B, rows of this rank, inputs (b, S), labels (b, S)) -> inputs and labels, as tokens
Augmentation = Callable[
    [np.random.Generator, int, slice, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]


@dataclass(frozen=True)
class SudokuCopies:
    """Digits, bands, rows within bands, stacks, columns within stacks, and the transpose where boxes are square."""

    box: BoxShape

    def __call__(self, rng, count, mine, inputs, labels):
        drawn = random_symmetries(rng, count, self.box)
        fields = (drawn.digits, drawn.rows, drawn.columns, drawn.transpose)
        symmetries = SudokuSymmetry(*(field[mine] for field in fields))
        return self._image(symmetries, inputs), self._image(symmetries, labels)

    def _image(self, symmetries: SudokuSymmetry, tokens: np.ndarray) -> np.ndarray:
        tokens = tokens.astype(np.uint8, copy=False)
        values = np.where(tokens > 0, tokens - 1, _PAD).astype(np.uint8)
        images = symmetries.apply(values.reshape(-1, self.box.size, self.box.size))
        return np.where(images < _PAD, images + 1, 0).reshape(tokens.shape)


@dataclass(frozen=True)
class MazeCopies:
    """One of the 8 symmetries of the square, of the 4 that keep the shape where the grid is none."""

    shape: tuple[int, int]

    def __call__(self, rng, count, mine, inputs, labels):
        rows, columns = self.shape
        legal = np.arange(NUM_DIHEDRAL) if rows == columns else np.array(KEEPING_THE_FRAME)
        drawn = rng.choice(legal, count)[mine]
        images = np.empty_like(inputs), np.empty_like(labels)
        for transform in legal:
            those = np.flatnonzero(drawn == transform)
            for image, tokens in zip(images, (inputs, labels), strict=True):
                grids = tokens[those].reshape(-1, *self.shape)
                image[those] = dihedral(grids, transform).reshape(tokens[those].shape)
        return images


def augmentation_of(metadata: Metadata, where: str) -> Augmentation:
    """The fresh copies that the data's family allows. Raises UserError, beginning with `where`, if it allows none."""
    look = Look.of(metadata)
    if look.family == "sudoku":
        return SudokuCopies(look.box)
    if look.family == "maze":
        return MazeCopies(look.shape)
    if look.family == "arc":
        raise UserError(
            f"{where}: augment=online is not possible with ARC, where each copy is a puzzle of its own: an identifier, "
            "and so a learned embedding, belongs to one fixed copy. Build the dataset with --num-aug and leave out "
            "augment"
        )
    raise UserError(
        f"{where}: augment=online needs a family whose symmetries are known (sudoku or maze), but "
        f"{look.reason}. Leave out augment"
    )
