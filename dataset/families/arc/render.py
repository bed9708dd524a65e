"""Render augmented ARC examples from their original pairs, packed two tokens per byte.

Both stores use this module: the full store when it is written, and the lazy store when it is read.

Legend: n requested rows, P pairs (original examples), S cells of a sequence (`dataset.families.arc.grids`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from dataset.families.arc.grids import (
    BORDER,
    FIRST_COLOUR,
    GRID_SIZE,
    TURNED,
    VOCAB_SIZE,
    decode_numbers,
    frame_layout,
)

Pair = tuple[np.ndarray, np.ndarray]


class Frames:
    """The frames of pairs under all 8 transforms, each stored only down to the border below its grids.

    A byte holds a cell of the input in its upper four bits and of the label in the lower four, because shifts and
    colour permutations apply to both. A shift by r rows and c columns moves a cell by side·r + c in the flat sequence,
    so a shifted frame is the frame preceded by that many zeros. The frames of one transform are stored in the order of
    `pairs`, so those of the pairs of a task are one piece.
    """

    def __init__(self, pairs: Sequence[Pair], side: int = GRID_SIZE) -> None:
        self._side, self.seq_len = side, side * side
        sizes = np.array([[grid.shape for grid in pair] for pair in pairs])  # (P, input and output, 2)
        sizes = np.where(TURNED[:, None, None, None], sizes[..., ::-1], sizes)  # (8, P, 2, 2)
        largest = sizes.max(2)
        lengths = np.minimum((largest[..., 0] + 1) * side, self.seq_len)
        ends = np.cumsum(lengths).reshape(lengths.shape)
        starts = ends - lengths
        self._cells = bytearray(lengths.sum())
        cells = np.frombuffer(self._cells, np.uint8)
        for pair, pair_starts in zip(pairs, starts.T[..., None], strict=True):
            for grid, bits in zip(pair, (np.uint8(4), np.uint8(0)), strict=True):
                inside, border = frame_layout(*grid.shape, side)
                cells[pair_starts + inside] |= (grid.ravel() + np.uint8(FIRST_COLOUR)) << bits
                cells[pair_starts + border] |= np.uint8(BORDER) << bits
        # One entry per transform and pair, so that a single `take` selects them, and small enough for the cache.
        self._num_pairs = len(pairs)
        self._starts, self._ends = starts.ravel(), ends.ravel()
        self._room = (side - largest).reshape(-1, 2).astype(np.uint8)
        # The column at which the border no longer fits; none (-1) for grids that fill the frame's width.
        limits = side - sizes[..., 1].reshape(-1, 2)
        self._limits = np.where(limits > 0, limits, -1).astype(np.int8)  # (8·P, input and output)

    def _keys(self, pairs: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        return transforms * self._num_pairs + pairs

    def room(self, pairs: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        """Return the largest shifts (n, 2), in rows and columns, of pairs (n,) under transforms (n,)."""
        return self._room.take(self._keys(pairs, transforms), axis=0)

    def rows(
        self,
        pairs: np.ndarray,
        transforms: np.ndarray,
        shifts: np.ndarray | None,
        runs: np.ndarray,
        tables: Iterable[bytes],
    ) -> np.ndarray:
        """Return packed frames (n, S) of pairs (n,) under transforms (n,), shifted by rows and columns (n, 2).

        runs: (n,) the run of each row, 0, 0, ..., r - 1: consecutive rows of one transform and task (or nearby pairs);
        tables: r translation tables of 256 bytes, applied to the packed bytes of the run's rows.
        """
        keys = self._keys(pairs, transforms)
        starts, ends = self._starts.take(keys), self._ends.take(keys)
        # `bytearray.translate` is by far the fastest way to look up bytes from Python, at 0.4 ns per byte, so each run
        # is translated as one piece, without padding, and its rows are then cut out of all pieces.
        at = first_of_each(runs)
        firsts, lasts = np.minimum.reduceat(starts, at), np.maximum.reduceat(ends, at)
        cells, spans = self._cells, zip(firsts.tolist(), lasts.tolist(), tables, strict=True)
        translated = [cells[first:last].translate(table) for first, last, table in spans]
        side, seq_len = self._side, self.seq_len
        margin = bytes(seq_len)  # for the windows that begin before the first piece or end after the last
        pieces = b"".join([margin, *translated, margin])
        sizes = lasts - firsts
        moved = len(margin) + np.cumsum(sizes) - sizes - firsts  # from `_cells` to `pieces`
        cuts = starts + moved[runs]
        leads = np.zeros(len(keys), np.int64) if shifts is None else shifts[:, 0] * side + shifts[:, 1]
        rows = _windows(pieces, cuts - leads, seq_len)
        rows &= _windows(_masks(side), (ends - starts) // side * (2 * seq_len) + seq_len - leads, seq_len)
        if shifts is not None:
            # A border shifted past the right edge wraps around to the left column, which a shifted grid leaves empty.
            wraps = self._limits.take(keys, axis=0) == shifts[:, 1:]
            kept = ~(wraps @ np.array([0xF0, 0x0F], np.uint8))
            changed = np.flatnonzero(kept != 0xFF)
            rows[changed, ::side] &= kept[changed, None]
        return rows


@cache
def _masks(side: int) -> bytes:
    """Return, for each number of grid rows l = 0..side: S zeros, side·l times 255, and zeros up to 2·S."""
    seq_len = side * side
    return b"".join(
        (bytes(seq_len) + b"\xff" * (side * length)).ljust(2 * seq_len, b"\0") for length in range(side + 1)
    )


def _windows(text: bytes, starts: np.ndarray, seq_len: int) -> np.ndarray:
    """Return the S bytes from each of `starts` (n,) on, (n, S) uint8."""
    # Items of S bytes at every byte; selecting those copies a row at a time, twenty times faster than slices do.
    windows = np.ndarray((len(text) - seq_len + 1,), f"V{seq_len}", text, strides=(1,))
    return windows[starts].view(np.uint8).reshape(-1, seq_len)


def unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unpack rows (n, S) to inputs and labels, each (n, S) uint8; labels reuse the memory of `packed`."""
    inputs = packed >> np.uint8(4)
    return inputs, np.bitwise_and(packed, np.uint8(0x0F), out=packed)


def render(
    frames: Frames,
    shift_seed: int | None,
    *,
    pairs: np.ndarray,
    positions: np.ndarray,
    lengths: np.ndarray,
    numbers: np.ndarray,
    puzzles: np.ndarray,
    examples: np.ndarray,
) -> np.ndarray:
    """Render packed inputs and labels (n, S), see `unpack`, of augmented examples; all arrays are (n,).

    pairs: index in `frames`; positions: index of the example in its puzzle of `lengths` examples; numbers: augmentation
    of the puzzle; puzzles, examples: indices in the split, which together with the seed determine the shifts. All
    examples of a puzzle except one are shifted; with `shift_seed` None, none is.
    """
    if not len(pairs):
        return np.empty((0, frames.seq_len), np.uint8)
    starts = first_of_each(puzzles)
    runs = np.repeat(np.arange(len(starts)), np.append(starts[1:], len(puzzles)) - starts)
    run_transforms, run_colours = decode_numbers(numbers[starts])
    transforms = run_transforms[runs]
    shifts = None
    if shift_seed is not None:
        shifts = _scaled_pairs(
            _random_words(shift_seed, 1, examples), frames.room(pairs, transforms) + np.uint8(1)
        )
        kept = _scaled(_random_words(shift_seed, 0, puzzles[starts]) >> np.uint64(32), lengths[starts])
        shifts[positions == kept[runs]] = 0

    tokens = np.zeros((len(starts), 16), np.uint8)
    tokens[:, BORDER] = BORDER
    tokens[:, FIRST_COLOUR:VOCAB_SIZE] = run_colours + np.uint8(FIRST_COLOUR)
    tables = np.repeat(tokens << np.uint8(4), 16, axis=1) | np.tile(tokens, 16)
    return frames.rows(pairs, transforms, shifts, runs, tables.view("V256").ravel().tolist())


def first_of_each(values: np.ndarray) -> np.ndarray:
    """Return where the runs of equal values (n,) begin, n > 0."""
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(values[1:] != values[:-1]) + 1])


# Shifts are a pure function of the seed and the indices of puzzle and example, so that each row can be rendered alone.


def _scaled_pairs(words: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Convert words (n,) of 64 random bits to two integers each, in 0..limit-1 for limits (n, 2)."""
    return _scaled(words[:, None] >> np.array([32, 0], np.uint64) & np.uint64(0xFFFFFFFF), limits)


def _scaled(words: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Convert words of 32 random bits to integers in 0..limit-1."""
    return ((words * limits.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _random_words(seed: int, stream: int, indices: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each index: splitmix64 at that position of the sequence of (seed, stream)."""
    return _mix(_sequence_start(seed, stream) + (indices.astype(np.uint64) + np.uint64(1)) * _STEP)


@cache
def _sequence_start(seed: int, stream: int) -> np.ndarray:
    return _mix(np.array([seed % 2**64], np.uint64)) + _mix(np.array([stream + 1], np.uint64) * _STEP)


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
