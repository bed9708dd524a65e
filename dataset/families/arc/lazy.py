"""Lazily stored ARC data: only the original pairs and the augmentation of each copy; examples are rendered when read.

The full store is written with the same `render`, so both stores yield identical examples.

Files: `DIR/identifiers.npz`, in place of identifiers.json, holds the task and augmentation of each identifier;
`{split}/{set}__originals.npz` holds the original pairs and the identifiers of the copies in each group.

Legend: n requested rows, S cells of a sequence (`dataset.families.arc.grids`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dataset.example_set import ExampleSet
from dataset.families.arc.grids import (
    FRAME_LENGTHS,
    GRID_SIZE,
    NUM_AUGMENTATIONS,
    NUM_COLOURS,
    SEQ_LEN,
    VOCAB_SIZE,
    augmented_names,
    frame_side,
)
from dataset.families.arc.render import Frames, Pair, render, unpack
from dataset.metadata import BLANK_IDENTIFIER, Metadata
from utils.errors import UserError
from utils.files import replacing
from utils.reading import read_npz

IDENTIFIERS_FILE = "identifiers.npz"


@dataclass(frozen=True)
class IdentifierTable:
    """Task and augmentation of each identifier: from `start` on, `lengths[i]` augmentations of `tasks[i]`, in order.

    numbers: (identifiers,) uint32 augmentation numbers.
    """

    start: int
    tasks: list[str]
    lengths: np.ndarray
    numbers: np.ndarray

    def names(self) -> Iterator[str]:
        """Yield the names as in identifiers.json, with `<blank>` below `start`."""
        yield from [BLANK_IDENTIFIER] * self.start
        first = 0
        for task, length in zip(self.tasks, self.lengths.tolist(), strict=True):
            yield from augmented_names(task, self.numbers[first : first + length])
            first += length

    def __len__(self) -> int:
        return self.start + len(self.numbers)

    def save(self, dataset_dir: Path) -> None:
        """Write `identifiers.npz`."""
        tasks, lengths = np.array(self.tasks, np.str_), self.lengths.astype(np.int32)
        arrays = {
            "start": np.array([self.start]),
            "tasks": tasks,
            "lengths": lengths,
            "numbers": self.numbers,
        }
        _save_npz(dataset_dir / IDENTIFIERS_FILE, arrays)

    @classmethod
    def load(cls, dataset_dir: str | Path) -> IdentifierTable:
        """Load the table of a lazy dataset. Raises `UserError` if the file is missing or invalid."""
        path = Path(dataset_dir) / IDENTIFIERS_FILE
        arrays = _load_npz(path, {"start": "iu", "tasks": "U", "lengths": "iu", "numbers": "iu"})
        if arrays["start"].shape != (1,) or arrays["start"][0] < 0:
            raise UserError(f"{path}: start is {arrays['start'].tolist()}, but must be one identifier")
        table = cls(int(arrays["start"][0]), arrays["tasks"].tolist(), arrays["lengths"], arrays["numbers"])
        if len(table.tasks) != len(table.lengths) or table.lengths.sum() != len(table.numbers):
            raise UserError(f"{path}: the number of tasks, lengths and augmentations do not agree")
        if len(table.lengths) and table.lengths.min() < 0:
            raise UserError(f"{path}: the length {table.lengths.min()} is below 0")
        wrong = np.flatnonzero((table.numbers < 0) | (table.numbers >= NUM_AUGMENTATIONS))
        if len(wrong):
            raise UserError(
                f"{path}: augmentation {table.numbers[wrong[0]]} is not in 0..{NUM_AUGMENTATIONS - 1} "
                f"(index {wrong[0]})"
            )
        return table


@dataclass(frozen=True)
class Originals:
    """A split before augmentation.

    groups: the original pairs of each group; identifiers: those of the copies in each group; shift_seed: see `render`.
    """

    groups: list[list[Pair]]
    identifiers: list[np.ndarray]
    shift_seed: int | None

    @property
    def largest(self) -> int:
        """The largest height or width of a grid."""
        return max(max(grid.shape) for pairs in self.groups for pair in pairs for grid in pair)

    @property
    def metadata_counts(self) -> dict[str, int | float]:
        """The counts in `dataset.json`."""
        puzzles = sum(map(len, self.identifiers))
        examples = sum(
            len(pairs) * len(ids) for pairs, ids in zip(self.groups, self.identifiers, strict=True)
        )
        return {
            "total_groups": len(self.groups),
            "total_puzzles": puzzles,
            "mean_puzzle_examples": examples / puzzles,
        }

    def save(self, split_dir: Path, set_name: str = "all") -> None:
        """Write `{set}__originals.npz`."""
        grids = [grid for pairs in self.groups for pair in pairs for grid in pair]
        identifiers = np.concatenate(self.identifiers)
        arrays = {
            "cells": np.concatenate([grid.ravel() for grid in grids]),
            "sizes": np.array([grid.shape for grid in grids], np.uint8),
            "pairs": np.array([len(pairs) for pairs in self.groups], np.int32),
            "copies": np.array([len(ids) for ids in self.identifiers], np.int32),
            # Nearly always 1, so the differences compress to almost nothing.
            "identifier_steps": np.diff(identifiers, prepend=0).astype(np.int32),
            "shift_seed": np.array([] if self.shift_seed is None else [self.shift_seed], np.uint64),
        }
        _save_npz(originals_path(split_dir, set_name), arrays)

    @classmethod
    def load(cls, split_dir: Path, set_name: str) -> Originals:
        """Load the originals of a set. Raises `UserError` if the file is missing or invalid."""
        path = originals_path(split_dir, set_name)
        kinds = dict.fromkeys(("cells", "sizes", "pairs", "copies", "identifier_steps", "shift_seed"), "iu")
        arrays = _load_npz(path, kinds)
        cells, sizes = arrays["cells"], arrays["sizes"].reshape(-1, 2).astype(np.int64)
        pairs, copies = arrays["pairs"], arrays["copies"]
        if not len(pairs) or len(pairs) != len(copies) or pairs.min() < 1 or copies.min() < 1:
            raise UserError(f"{path}: every group needs at least one pair and one copy")
        if len(sizes) != 2 * pairs.sum() or sizes.prod(1).sum() != len(cells):
            raise UserError(f"{path}: the numbers of pairs, grid sizes and cells do not agree")
        if copies.sum() != len(arrays["identifier_steps"]):
            raise UserError(f"{path}: the numbers of copies and of identifiers do not agree")
        # Outputs of 0 x 0 are unknown answers.
        empty = (sizes == 0).all(1) & (np.arange(len(sizes)) % 2 == 1)
        if (
            sizes[~empty].min() < 1
            or sizes.max() > GRID_SIZE
            or cells.min() < 0
            or cells.max() >= NUM_COLOURS
        ):
            raise UserError(f"{path}: grids must be 1 x 1 to {GRID_SIZE} x {GRID_SIZE} with colours 0..9")
        if len(arrays["shift_seed"]) and arrays["shift_seed"][0] < 0:
            raise UserError(f"{path}: shift_seed is {arrays['shift_seed'][0]}, but must be at least 0")
        cells = cells.astype(np.uint8, copy=False)  # any integer dtype is accepted
        grids = [
            part.reshape(size)
            for part, size in zip(np.split(cells, sizes.prod(1).cumsum()[:-1]), sizes.tolist(), strict=True)
        ]
        both = list(zip(grids[::2], grids[1::2], strict=True))
        firsts = [0, *np.cumsum(pairs).tolist()]
        identifiers = np.cumsum(arrays["identifier_steps"], dtype=np.int64)
        return cls(
            [both[first:last] for first, last in pairwise(firsts)],
            np.split(identifiers, np.cumsum(copies)[:-1]),
            int(arrays["shift_seed"][0]) if len(arrays["shift_seed"]) else None,
        )


def originals_path(split_dir: Path, set_name: str) -> Path:
    """Return the path of the original pairs of a lazily stored set."""
    return split_dir / f"{set_name}__originals.npz"


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        # The type stub has a keyword `allow_pickle: bool`, but no array has that name.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _load_npz(path: Path, kinds: dict[str, str]) -> dict[str, np.ndarray]:
    """Read the arrays of a file by name; kinds: the allowed dtype kinds of each."""
    arrays = read_npz(path, missing="is missing, but dataset.json says that the store is lazy")
    for key, kind in kinds.items():
        if key not in arrays or arrays[key].dtype.kind not in kind:
            raise UserError(f"{path}: lacks the array {key!r}, or it has the wrong type")
        if arrays[key].ndim != (2 if key == "sizes" else 1):
            raise UserError(f"{path}: the array {key!r} has the shape {arrays[key].shape}")
    return arrays


# ---------------------------------------------------------------------------------------------- reading


class LazyExampleSet(ExampleSet):
    """A set whose rows are rendered when read; `inputs` and `labels` are None."""

    def __init__(
        self, split_dir: Path, name: str, metadata: Metadata, originals: Originals, numbers: np.ndarray
    ) -> None:
        """Prepare rendering; numbers: (puzzles,) the augmentation of each puzzle."""
        pairs = np.array([len(group) for group in originals.groups])
        copies = np.array([len(ids) for ids in originals.identifiers])
        arrays = {
            "puzzle_identifiers": np.concatenate(originals.identifiers).astype(np.int32),
            "puzzle_indices": _starts(np.repeat(pairs, copies)).astype(np.int32),
            "group_indices": _starts(copies).astype(np.int32),
        }
        super().__init__(split_dir, name, metadata, arrays)
        self._pairs = pairs
        self._first_pairs, self._first_examples = _starts(pairs), _starts(pairs * copies)
        self._numbers = numbers
        self._shift_seed = originals.shift_seed
        pairs_of_all = [pair for group in originals.groups for pair in group]
        self._frames = Frames(pairs_of_all, frame_side(metadata.seq_len))

    @classmethod
    def open(cls, split_dir: Path, name: str, metadata: Metadata) -> tuple[LazyExampleSet | None, list[str]]:
        """Open a set; return None and the problems if its files are invalid."""
        split_dir = Path(split_dir)
        try:
            table = IdentifierTable.load(split_dir.parent)
            originals = Originals.load(split_dir, name)
        except UserError as error:
            return None, [str(error)]
        identifiers = np.concatenate(originals.identifiers)
        outside = np.flatnonzero((identifiers < table.start) | (identifiers >= len(table)))
        if len(outside):
            return None, [
                f"{originals_path(split_dir, name)}: puzzle {outside[0]} has identifier {identifiers[outside[0]]}, "
                f"but {IDENTIFIERS_FILE} holds {table.start}..{len(table) - 1}"
            ]
        if metadata.seq_len not in FRAME_LENGTHS or metadata.vocab_size != VOCAB_SIZE:
            return None, [
                f"{split_dir / 'dataset.json'}: seq_len and vocab_size are {metadata.seq_len} and "
                f"{metadata.vocab_size}, but lazily stored ARC data has {SEQ_LEN} (or a smaller square number) and "
                f"{VOCAB_SIZE}"
            ]
        side = frame_side(metadata.seq_len)
        if originals.largest > side:
            return None, [
                f"{originals_path(split_dir, name)}: has a grid with a side of {originals.largest}, but seq_len in "
                f"dataset.json is that of frames of {side} x {side}"
            ]
        return cls(split_dir, name, metadata, originals, table.numbers[identifiers - table.start]), []

    @property
    def num_examples(self) -> int:
        return int(self._first_examples[-1])

    def read(self, example_indices: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Render inputs and labels, each (n, S) uint8, of the given examples."""
        if isinstance(example_indices, slice):
            examples = np.arange(*example_indices.indices(self.num_examples))
        else:
            examples = np.asarray(example_indices, np.int64)
        groups = np.searchsorted(self._first_examples, examples, side="right") - 1
        lengths = self._pairs[groups]
        copies, positions = np.divmod(examples - self._first_examples[groups], lengths)
        puzzles = self.group_indices[groups] + copies
        packed = render(
            self._frames,
            self._shift_seed,
            pairs=self._first_pairs[groups] + positions,
            positions=positions,
            lengths=lengths,
            numbers=self._numbers[puzzles],
            puzzles=puzzles,
            examples=examples,
        )
        return unpack(packed)

    def problems(self) -> Iterator[str]:
        """Yield the problems of the index arrays; `open` checks the rest."""
        return self.index_problems()

    def _path(self, field: str) -> Path:
        return originals_path(self.split_dir, self.name)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return the start of each of consecutive ranges, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths)])
