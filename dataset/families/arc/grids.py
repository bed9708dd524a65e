"""ARC grids as tokens, their augmentations by name and by number, and their hashes.

A grid is an (H, W) uint8 array of colours 0..9, H and W at most 30. A sequence is the 30 x 30 frame around it, flat:
pad 0, border 1 (the cells just right of and just below the grid, where they fit), colour c as c + 2.
An augmentation is one of 8 dihedral transforms and a permutation of the colours 1..9 (0 stays). Its number is
`transform * 9! + rank of the permutation in lexicographic order`, so number 0 leaves a grid as it is.

Legend: S 900 cells of a sequence, ... any leading batch dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import factorial

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral, inverse_dihedral
from utils.errors import UserError

GRID_SIZE = 30
SEQ_LEN = GRID_SIZE * GRID_SIZE
NUM_COLOURS = 10
PAD, BORDER, FIRST_COLOUR = 0, 1, 2
VOCAB_SIZE = FIRST_COLOUR + NUM_COLOURS

NAME_SEPARATOR = "|||"
PERMUTATIONS = factorial(NUM_COLOURS - 1)
NUM_AUGMENTATIONS = NUM_DIHEDRAL * PERMUTATIONS
TURNED = np.isin(np.arange(NUM_DIHEDRAL), (1, 3, 6, 7))  # the transforms that exchange height and width

# ---------------------------------------------------------------------------------------------- grids


def parse_grid(value: object, where: str) -> np.ndarray:
    """The grid that JSON holds as a list of rows; raises `UserError`, naming `where`, for anything that is none."""
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
        raise UserError(f"{where}: is {height} x {width}, but at most {GRID_SIZE} x {GRID_SIZE} fits")
    return np.array(value, np.uint8)


def encode(grids: np.ndarray, row: int = 0, column: int = 0) -> np.ndarray:
    """(..., S) uint8 sequences of (..., H, W) grids whose top left cells lie at (row, column) of the frame."""
    *batch, height, width = grids.shape
    bottom, right = row + height, column + width
    assert max(bottom, right) <= GRID_SIZE, (row, column, grids.shape)
    frames = np.zeros((*batch, GRID_SIZE, GRID_SIZE), np.uint8)
    frames[..., row:bottom, column:right] = grids + np.uint8(FIRST_COLOUR)
    frames[..., bottom : bottom + 1, column:right] = BORDER  # slices beyond the frame are empty
    frames[..., row:bottom, right : right + 1] = BORDER
    return frames.reshape(*batch, SEQ_LEN)


@cache
def frame_layout(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of a grid of this size lie in its sequence under each of the 8 transforms, and its border.

    Returns (8, H·W) places of the cells in the order of the untransformed grid, and (8, border cells) places.
    """
    cells = np.empty((NUM_DIHEDRAL, height * width), np.int32)
    borders = []
    for transform in range(NUM_DIHEDRAL):
        moved = dihedral(np.arange(height * width).reshape(height, width), transform)
        sequence = encode(np.zeros(moved.shape, np.uint8))
        cells[transform, moved.ravel()] = np.flatnonzero(sequence == FIRST_COLOUR)
        borders.append(np.flatnonzero(sequence == BORDER))
    return cells, np.array(borders, np.int32)


def crop_sizes(sequences: np.ndarray) -> np.ndarray:
    """(N, 2) heights and widths of the largest top-left rectangles of colours in (N, S) sequences.

    Of equally large ones it is the one with the fewest rows; (0, 0) where the top left cell is no colour.
    """
    frames = sequences.reshape(-1, GRID_SIZE, GRID_SIZE)
    is_colour = (frames >= FIRST_COLOUR) & (frames < VOCAB_SIZE)
    run = np.where(is_colour.all(-1), GRID_SIZE, is_colour.argmin(-1))  # colours at the start of each row
    widths = np.minimum.accumulate(run, axis=1)
    areas = widths * np.arange(1, GRID_SIZE + 1)
    best = areas.argmax(1)
    rows = np.arange(len(frames))
    sizes = np.stack([best + 1, widths[rows, best]], axis=1)
    sizes[areas[rows, best] == 0] = 0
    return sizes


def crop(sequence: np.ndarray) -> np.ndarray:
    """The (H, W) grid in the largest top-left rectangle of colours of a sequence (S,); (0, 0) when there is none."""
    height, width = crop_sizes(sequence[None])[0]
    frame = sequence.reshape(GRID_SIZE, GRID_SIZE)
    return (frame[:height, :width] - FIRST_COLOUR).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- hashes


def grid_digest(grid: np.ndarray) -> bytes:
    """The 32 bytes of sha256 over (rows byte, columns byte, cells as uint8)."""
    return hashlib.sha256(bytes(grid.shape) + grid.astype(np.uint8).tobytes()).digest()


def grid_hash(grid: np.ndarray) -> str:
    """`grid_digest` as hexadecimal text, the form in which published files hold it."""
    return grid_digest(grid).hex()


def puzzle_hash(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """Hash of a puzzle, whatever the order of its (input, output) pairs."""
    hashes = sorted(f"{grid_hash(question)}|{grid_hash(answer)}" for question, answer in pairs)
    return hashlib.sha256("|".join(hashes).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------- augmentations


@dataclass(frozen=True)
class Augmentation:
    """A dihedral transform and the ten digits of a colour permutation: colour c becomes `int(colours[c])`."""

    transform: int = 0
    colours: str = "0123456789"

    def apply(self, grid: np.ndarray) -> np.ndarray:
        """The augmented copy of a grid."""
        return dihedral(self._mapping[grid], self.transform)

    def invert(self, grid: np.ndarray) -> np.ndarray:
        """The grid of which `apply` makes this one."""
        return np.argsort(self._mapping).astype(np.uint8)[inverse_dihedral(grid, self.transform)]

    def inverse_table(self) -> bytes:
        """256 bytes for `bytes.translate`: each colour token to the colour it had before the augmentation."""
        table = bytearray(256)
        for before, after in enumerate(self.colours):
            table[FIRST_COLOUR + int(after)] = before
        return bytes(table)

    @property
    def _mapping(self) -> np.ndarray:
        return np.array([int(digit) for digit in self.colours], np.uint8)


def split_name(name: str) -> tuple[str, Augmentation]:
    """The task and the augmentation in an identifier's name; raises `UserError` when it is malformed."""
    if NAME_SEPARATOR not in name:
        return name, Augmentation()
    parts = name.split(NAME_SEPARATOR)
    if len(parts) == 3:
        task, transform, colours = parts
        if transform[:1] == "t" and transform[1:] in "01234567" and len(transform) == 2:  # noqa: SIM102
            if colours[:1] == "0" and "".join(sorted(colours)) == "0123456789":
                return task, Augmentation(int(transform[1]), colours)
    raise UserError(
        f"identifier {name!r} is not of the form TASK{NAME_SEPARATOR}tTRANSFORM{NAME_SEPARATOR}TEN DIGITS of a "
        "permutation that leaves 0 in place"
    )


def decode_numbers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transforms (N,) and colour maps (N, 10) uint8 of augmentation numbers (N,)."""
    transforms, ranks = np.divmod(np.asarray(numbers, np.int64), PERMUTATIONS)
    return transforms, _colour_permutations().take(ranks, axis=0)


@cache
def _colour_permutations() -> np.ndarray:
    """(9!, 10) uint8 permutations of the colours that leave 0 in place, in lexicographic order."""
    smaller = np.zeros((1, 0), np.uint8)
    for size in range(1, NUM_COLOURS):
        firsts = np.repeat(np.arange(size, dtype=np.uint8), len(smaller))[:, None]
        rest = np.tile(smaller, (size, 1))
        smaller = np.hstack([firsts, rest + (rest >= firsts)])
    return np.pad(smaller + np.uint8(1), ((0, 0), (1, 0)))


def augmented_names(task: str, numbers: np.ndarray) -> list[str]:
    """Identifier names of a task under augmentation numbers (N,); number 0 is the task's own name."""
    transforms, colours = decode_numbers(numbers)
    digits = (colours + np.uint8(ord("0"))).view(f"S{NUM_COLOURS}").ravel().astype(str).tolist()
    separator = NAME_SEPARATOR
    return [
        f"{task}{separator}t{transform}{separator}{text}" if number else task
        for number, transform, text in zip(
            np.asarray(numbers).tolist(), transforms.tolist(), digits, strict=True
        )
    ]
