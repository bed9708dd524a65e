"""ARC grids as tokens, their augmentations by name and number, and their hashes.

A grid is an (H, W) uint8 array of colours 0..9, with H and W at most 30. A sequence is the flattened square frame
around it: pad 0, border 1 (the cells just right of and below the grid, if they fit), colour c as c + 2. The side of the
frame is 30 as in published datasets, or that of `build_arc_dataset --max-grid`.
An augmentation is one of 8 dihedral transforms and a permutation of the colours 1..9 (0 is fixed). Its number is
`transform * 9! + rank of the permutation in lexicographic order`, so number 0 is the identity.

Legend: S = side · side cells of a sequence, ... any leading batch dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import factorial, isqrt

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral, inverse_dihedral
from utils.errors import UserError

GRID_SIZE = 30  # of the largest grids, and the side of published frames
SEQ_LEN = GRID_SIZE * GRID_SIZE
FRAME_LENGTHS = frozenset(side * side for side in range(1, GRID_SIZE + 1))
NUM_COLOURS = 10
PAD, BORDER, FIRST_COLOUR = 0, 1, 2
VOCAB_SIZE = FIRST_COLOUR + NUM_COLOURS

NAME_SEPARATOR = "|||"
PERMUTATIONS = factorial(NUM_COLOURS - 1)
NUM_AUGMENTATIONS = NUM_DIHEDRAL * PERMUTATIONS
TURNED = np.isin(np.arange(NUM_DIHEDRAL), (1, 3, 6, 7))  # transforms that swap height and width

# ---------------------------------------------------------------------------------------------- grids


def parse_grid(value: object, where: str) -> np.ndarray:
    """Parse a grid from JSON, a list of rows. Raises `UserError`, prefixed with `where`, if it is malformed."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        raise UserError(f"{where}: a grid must be a list of one or more rows, each a list of colours")
    height, width = len(value), len(value[0])
    for number, row in enumerate(value):
        if len(row) != width:
            raise UserError(f"{where}: row {number} has {len(row)} cells, but row 0 has {width}")
        for column, colour in enumerate(row):
            if type(colour) is not int or not 0 <= colour < NUM_COLOURS:
                raise UserError(
                    f"{where}: row {number}, column {column} is {colour!r}, but colours are integers 0..9"
                )
    if height > GRID_SIZE or width > GRID_SIZE:
        raise UserError(f"{where}: is {height} x {width}, but the maximum is {GRID_SIZE} x {GRID_SIZE}")
    return np.array(value, np.uint8)


def frame_side(seq_len: int) -> int:
    """Return the side of the frame in sequences of this length."""
    side = isqrt(seq_len)
    assert side * side == seq_len, seq_len
    return side


def encode(grids: np.ndarray, row: int = 0, column: int = 0, side: int = GRID_SIZE) -> np.ndarray:
    """Encode (..., H, W) grids, with their top left cell at (row, column) of the frame, as (..., S) uint8."""
    *batch, height, width = grids.shape
    bottom, right = row + height, column + width
    assert max(bottom, right) <= side, (row, column, grids.shape, side)
    frames = np.zeros((*batch, side, side), np.uint8)
    frames[..., row:bottom, column:right] = grids + np.uint8(FIRST_COLOUR)
    frames[..., bottom : bottom + 1, column:right] = BORDER  # the slice is empty at the edge of the frame
    frames[..., row:bottom, right : right + 1] = BORDER
    return frames.reshape(*batch, side * side)


@cache
def frame_layout(height: int, width: int, side: int = GRID_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the cells and of the border of a grid of this size in its sequence, for each transform.

    Shapes: (8, H·W) in the order of the untransformed grid, and (8, border cells).
    """
    cells = np.empty((NUM_DIHEDRAL, height * width), np.int32)
    borders = []
    for transform in range(NUM_DIHEDRAL):
        moved = dihedral(np.arange(height * width).reshape(height, width), transform)
        sequence = encode(np.zeros(moved.shape, np.uint8), side=side)
        cells[transform, moved.ravel()] = np.flatnonzero(sequence == FIRST_COLOUR)
        borders.append(np.flatnonzero(sequence == BORDER))
    return cells, np.array(borders, np.int32)


def crop_sizes(sequences: np.ndarray) -> np.ndarray:
    """Return heights and widths (N, 2) of the largest top-left rectangles of colours in (N, S) sequences.

    Ties are broken by the fewest rows; (0, 0) if the top left cell is not a colour.
    """
    side = frame_side(sequences.shape[-1])
    frames = sequences.reshape(-1, side, side)
    is_colour = (frames >= FIRST_COLOUR) & (frames < VOCAB_SIZE)
    run = np.where(is_colour.all(-1), side, is_colour.argmin(-1))  # colours at the start of each row
    widths = np.minimum.accumulate(run, axis=1)
    areas = widths * np.arange(1, side + 1)
    best = areas.argmax(1)
    rows = np.arange(len(frames))
    sizes = np.stack([best + 1, widths[rows, best]], axis=1)
    sizes[areas[rows, best] == 0] = 0
    return sizes


def crop(sequence: np.ndarray) -> np.ndarray:
    """Return the grid (H, W) in the largest top-left rectangle of colours of a sequence (S,), possibly (0, 0)."""
    height, width = crop_sizes(sequence[None])[0]
    side = frame_side(len(sequence))
    frame = sequence.reshape(side, side)
    return (frame[:height, :width] - FIRST_COLOUR).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- hashes


def grid_digest(grid: np.ndarray) -> bytes:
    """Return the 32 bytes of the SHA-256 of (rows byte, columns byte, cells as uint8)."""
    return hashlib.sha256(bytes(grid.shape) + grid.astype(np.uint8).tobytes()).digest()


def grid_hash(grid: np.ndarray) -> str:
    """Return `grid_digest` as hexadecimal text, as in published files."""
    return grid_digest(grid).hex()


def puzzle_hash(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """Hash a puzzle, independently of the order of its (input, output) pairs."""
    hashes = sorted(f"{grid_hash(question)}|{grid_hash(answer)}" for question, answer in pairs)
    return hashlib.sha256("|".join(hashes).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------- augmentations


@dataclass(frozen=True)
class Augmentation:
    """A dihedral transform and the ten digits of a colour permutation: colour c becomes `int(colours[c])`."""

    transform: int = 0
    colours: str = "0123456789"

    def apply(self, grid: np.ndarray) -> np.ndarray:
        """Augment a grid."""
        return dihedral(self._mapping[grid], self.transform)

    def invert(self, grid: np.ndarray) -> np.ndarray:
        """Undo `apply`."""
        return np.argsort(self._mapping).astype(np.uint8)[inverse_dihedral(grid, self.transform)]

    def inverse_table(self) -> bytes:
        """Return a table for `bytes.translate` that maps each colour token to the colour before the augmentation."""
        table = bytearray(256)
        for before, after in enumerate(self.colours):
            table[FIRST_COLOUR + int(after)] = before
        return bytes(table)

    @property
    def _mapping(self) -> np.ndarray:
        return np.array([int(digit) for digit in self.colours], np.uint8)


def split_name(name: str) -> tuple[str, Augmentation]:
    """Split the name of an identifier into task and augmentation. Raises `UserError` if it is malformed."""
    if NAME_SEPARATOR not in name:
        return name, Augmentation()
    parts = name.split(NAME_SEPARATOR)
    if len(parts) == 3:
        task, transform, colours = parts
        if transform[:1] == "t" and transform[1:] in "01234567" and len(transform) == 2:  # noqa: SIM102
            if colours[:1] == "0" and "".join(sorted(colours)) == "0123456789":
                return task, Augmentation(int(transform[1]), colours)
    raise UserError(
        f"identifier {name!r} does not have the form TASK{NAME_SEPARATOR}tTRANSFORM{NAME_SEPARATOR}COLOURS, with "
        "a permutation of the ten digits that keeps 0 in place as COLOURS"
    )


def decode_numbers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return transforms (N,) and colour maps (N, 10) uint8 of augmentation numbers (N,)."""
    transforms, ranks = np.divmod(np.asarray(numbers, np.int64), PERMUTATIONS)
    return transforms, _colour_permutations().take(ranks, axis=0)


@cache
def _colour_permutations() -> np.ndarray:
    """Return all permutations (9!, 10) uint8 of the colours that keep 0 in place, in lexicographic order."""
    smaller = np.zeros((1, 0), np.uint8)
    for size in range(1, NUM_COLOURS):
        firsts = np.repeat(np.arange(size, dtype=np.uint8), len(smaller))[:, None]
        rest = np.tile(smaller, (size, 1))
        smaller = np.hstack([firsts, rest + (rest >= firsts)])
    return np.pad(smaller + np.uint8(1), ((0, 0), (1, 0)))


def augmented_names(task: str, numbers: np.ndarray) -> list[str]:
    """Return the identifier names of a task with augmentation numbers (N,); for number 0, the name of the task."""
    transforms, colours = decode_numbers(numbers)
    digits = (colours + np.uint8(ord("0"))).view(f"S{NUM_COLOURS}").ravel().astype(str).tolist()
    separator = NAME_SEPARATOR
    return [
        f"{task}{separator}t{transform}{separator}{text}" if number else task
        for number, transform, text in zip(
            np.asarray(numbers).tolist(), transforms.tolist(), digits, strict=True
        )
    ]
