"""Symmetries of a puzzle family: transformations of grids under which right answers stay right.

They are used for symmetric voting, `augment=online` and the memorisation report.
Shapes: n rows, C copies of each (copy c of row r is row r·C + c), S cells of a sequence, V vocabulary, G elements of a
finite group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral

SHAPE_PRESERVING = (0, 2, 4, 5)  # dihedral transforms that keep the shape of every rectangle


class Undo(Protocol):
    """Maps answers to copies back to the puzzles."""

    def __call__(self, answers: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray: ...


@dataclass(frozen=True)
class Copies:
    """Copies of n puzzles, and a function that maps answers to the copies back to answers to the puzzles."""

    tokens: np.ndarray  # (n·C, S)
    identifiers: np.ndarray  # (n·C,)
    # (m, S) answers to the copies with the indices `rows` (m,), all by default, -> (m, S) answers to the puzzles
    undo: Undo


class Transforms(Protocol):
    """A batch of n transformations, one per row."""

    def __getitem__(self, rows: slice | np.ndarray) -> Transforms: ...

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """Return the images (n, S) of tokens (n, S), with the same dtype; any token may occur, including padding."""

    def inverse(self) -> Transforms:
        """Return the inverse transformations."""


class Symmetries:
    """The symmetries of one family and grid shape."""

    most: int | None = None
    """Number of different images of a puzzle; None if there are too many to enumerate."""

    def draw(self, rng: np.random.Generator, count: int) -> Transforms:
        """Draw `count` independent transformations; they may include the identity."""
        raise NotImplementedError(f"{type(self).__name__} must define draw")

    def draw_copies(self, rngs: Sequence[np.random.Generator], count: int) -> Transforms:
        """Draw `count` transformations per generator, starting with the identity; all differ if `most` is finite."""
        raise NotImplementedError(f"{type(self).__name__} must define draw_copies")

    def copies(
        self, tokens: np.ndarray, identifiers: np.ndarray, numbers: np.ndarray, count: int, seed: int
    ) -> Copies:
        """Make `count` copies of each puzzle, the first being the puzzle itself.

        tokens (n, S), identifiers (n,), `numbers` (n,): the index of each puzzle in the test stream. Copies are drawn
        from (seed, index), so they do not depend on batches or ranks.
        """
        transforms = self.draw_copies([puzzle_generator(seed, number) for number in numbers], count)
        inverse = transforms.inverse()
        repeated = np.repeat(tokens, count, axis=0)

        def undo(answers: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
            return inverse[rows].apply(answers)

        return Copies(transforms.apply(repeated), np.repeat(identifiers, count), undo)


def puzzle_generator(seed: int, number: int) -> np.random.Generator:
    """Return the generator that draws the copies of puzzle `number`."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(number),))))


@dataclass(frozen=True)
class GroupElements:
    """Transformations from a finite group, as indices into its tables."""

    group: FiniteSymmetries
    which: np.ndarray  # (n,) int64

    def __getitem__(self, rows: slice | np.ndarray) -> GroupElements:
        return GroupElements(self.group, self.which[rows])

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        moved = np.take_along_axis(tokens, self.group.cells[self.which], axis=1)
        if self.group.keeps_tokens:
            return moved
        # Ignored labels and other values that are not tokens stay unchanged.
        known = (moved >= 0) & (moved < self.group.tokens.shape[1])
        renamed = self.group.tokens[self.which[:, None], np.where(known, moved, 0)]
        return np.where(known, renamed, moved).astype(tokens.dtype)

    def inverse(self) -> GroupElements:
        return GroupElements(self.group, self.group.inverses[self.which])


class FiniteSymmetries(Symmetries):
    """A finite group, given by the permutations of cells and tokens.

    `cells` (G, S): cell i of an image is cell `cells[g, i]` of the grid. `tokens` (G, V): token v becomes
    `tokens[g, v]`; by default tokens are unchanged. Element 0 must be the identity. Raises ValueError if the elements
    do not form a group.
    """

    most: int

    def __init__(self, cells: np.ndarray, tokens: np.ndarray | None = None) -> None:
        self.cells = np.asarray(cells, np.int64)
        identity = np.arange(1) if tokens is None else np.arange(np.shape(tokens)[1])
        self.tokens = np.repeat(identity[None], len(cells), 0) if tokens is None else np.asarray(tokens)
        self.keeps_tokens = bool((self.tokens == identity).all())
        self.most = len(self.cells)
        undone = (np.argsort(self.cells, axis=1), np.argsort(self.tokens, axis=1))
        number = {key: index for index, key in enumerate(_keys(self.cells, self.tokens))}
        try:
            self.inverses = np.array([number[key] for key in _keys(*undone)], np.int64)
        except KeyError:
            raise ValueError(
                "an element's inverse is missing, so these are not the elements of a group"
            ) from None
        if (
            len(number) < self.most
            or self.inverses[0]
            or (self.cells[0] != np.arange(self.cells.shape[1])).any()
        ):
            raise ValueError("elements must differ, and the first one must be the identity")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FiniteSymmetries):
            return NotImplemented
        return np.array_equal(self.cells, other.cells) and np.array_equal(self.tokens, other.tokens)

    @classmethod
    def of_rectangle(cls, shape: tuple[int, int], swaps: np.ndarray | None = None) -> FiniteSymmetries:
        """Return rotations and reflections of (H, W) grids: all 8 for a square, otherwise the 4 that keep the shape.

        `swaps` (k, V): permutations of tokens that also keep answers right, starting with the identity; they are
        combined with every rotation and reflection.
        """
        grid = np.arange(shape[0] * shape[1]).reshape(shape)
        kept = range(NUM_DIHEDRAL) if shape[0] == shape[1] else SHAPE_PRESERVING
        cells = np.stack([dihedral(grid, transform).reshape(-1) for transform in kept])
        if swaps is None:
            return cls(cells)
        return cls(np.tile(cells, (len(swaps), 1)), np.repeat(swaps, len(cells), axis=0))

    def draw(self, rng: np.random.Generator, count: int) -> GroupElements:
        return GroupElements(self, rng.choice(self.most, count))

    def draw_copies(self, rngs: Sequence[np.random.Generator], count: int) -> GroupElements:
        others = np.arange(1, self.most)
        drawn = [[0, *rng.permutation(others)[: count - 1]] for rng in rngs]
        return GroupElements(self, np.array(drawn, np.int64).reshape(-1))

    def images(self, tokens: np.ndarray) -> list[np.ndarray]:
        """Return the images (n, S) of tokens (n, S) under each of the G elements."""
        every = (np.full(len(tokens), element, np.int64) for element in range(len(self.cells)))
        return [GroupElements(self, which).apply(tokens) for which in every]

    def keys(self, tokens: np.ndarray) -> list[bytes]:
        """n keys, equal for those of the grids (n, S) that are images of each other: the least image of each."""
        images = self.images(np.ascontiguousarray(tokens, np.uint8))
        return [min(image.tobytes() for image in of_row) for of_row in zip(*images, strict=True)]


def _keys(cells: np.ndarray, tokens: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.concatenate([cells, tokens], axis=1, dtype=np.int64)]
