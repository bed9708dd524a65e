"""One set of a split: its memory-mapped arrays and checks of their content.

Legend: E examples, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataset.metadata import Metadata
from utils.errors import UserError
from utils.reading import open_npy

FIELD_DTYPES = {
    "inputs": np.uint8,
    "labels": np.uint8,
    "puzzle_identifiers": np.int32,
    "puzzle_indices": np.int32,
    "group_indices": np.int32,
}
_CHUNK_BYTES = 1 << 23  # a full check reads this much at a time, which bounds its memory


def array_path(split_dir: str | Path, set_name: str, field: str) -> Path:
    """Return the path of an array of a set."""
    return Path(split_dir) / f"{set_name}__{field}.npy"


class ExampleSet:
    """One set of a split, memory-mapped.

    `inputs` and `labels` are (E, S) tokens as stored (ignored cells still hold `ignore_label_id`),
    `difficulty` is (E,) or None. A store that keeps something other than tokens is a subclass, listed in
    `dataset.format.STORES`, with its own `open`, `num_examples`, `read` and `problems`; it has no `inputs` and
    `labels`, so use `read`.
    """

    inputs: np.ndarray | None
    labels: np.ndarray | None
    puzzle_identifiers: np.ndarray
    puzzle_indices: np.ndarray
    group_indices: np.ndarray
    difficulty: np.ndarray | None

    def __init__(self, split_dir: Path, name: str, metadata: Metadata, arrays: dict[str, np.ndarray]):
        self.split_dir, self.name, self.metadata = split_dir, name, metadata
        for field in (*FIELD_DTYPES, "difficulty"):
            setattr(self, field, arrays.get(field))

    @classmethod
    def open(cls, split_dir: Path, name: str, metadata: Metadata) -> tuple[ExampleSet | None, list[str]]:
        """Open a set; return None and the problems if files are missing, truncated, or of wrong shape or dtype."""
        arrays, problems = load_arrays(split_dir, name, tuple(FIELD_DTYPES))
        for field in ("inputs", "labels"):
            width = arrays[field].shape[1] if field in arrays else metadata.seq_len
            if width != metadata.seq_len:
                path = array_path(split_dir, name, field)
                problems.append(f"{path}: rows have {width} cells, but seq_len is {metadata.seq_len}")
        return (None, problems) if problems else (cls(split_dir, name, metadata, arrays), [])

    @property
    def num_examples(self) -> int:
        return len(self.inputs)

    @property
    def num_puzzles(self) -> int:
        return len(self.puzzle_identifiers)

    @property
    def num_groups(self) -> int:
        return len(self.group_indices) - 1

    def read(self, example_indices: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Read inputs and labels, each (n, S), of the given examples; a slice is not copied."""
        if isinstance(example_indices, slice):
            return self.inputs[example_indices], self.labels[example_indices]
        # `take` gathers short rows about four times faster than indexing does.
        return self.inputs.take(example_indices, axis=0), self.labels.take(example_indices, axis=0)

    def puzzles_of(self, example_indices: np.ndarray) -> np.ndarray:
        """Return the puzzle of each of the given examples."""
        # With another dtype for the searched values, NumPy would convert the whole array at every call.
        indices = self.puzzle_indices
        return np.searchsorted(indices, np.asarray(example_indices, indices.dtype), side="right") - 1

    def problems(self) -> Iterator[str]:
        """Yield the problems of the array contents, with file and index."""
        yield from self.token_problems()
        yield from self.index_problems()

    def token_problems(self) -> Iterator[str]:
        """Yield tokens outside the vocabulary, and a mismatch between inputs and labels."""
        if len(self.labels) != len(self.inputs):
            yield (
                f"{self._path('labels')}: holds {len(self.labels)} examples, but {self._path('inputs').name} "
                f"holds {len(self.inputs)}"
            )
        limit, ignored = self.metadata.vocab_size, self.metadata.ignore_label_id
        allowed = f"0..{limit - 1} (vocab_size is {limit})"
        yield from _range_problems(self._path("inputs"), self.inputs, limit, allowed)
        allowed += "" if ignored is None else f" or ignore_label_id, {ignored}"
        yield from _range_problems(self._path("labels"), self.labels, limit, allowed, also_legal=ignored)

    def index_problems(self) -> Iterator[str]:
        """Yield invalid puzzle identifiers, puzzle and group indices, and difficulties."""
        path = self._path("puzzle_indices")
        yield from _index_problems(path, self.puzzle_indices, self.num_examples, "examples")
        if len(self.puzzle_indices) != self.num_puzzles + 1:
            yield (
                f"{path}: has {len(self.puzzle_indices)} entries, but {self.num_puzzles} puzzle identifiers "
                f"need {self.num_puzzles + 1}"
            )
        path = self._path("group_indices")
        yield from _index_problems(path, self.group_indices, self.num_puzzles, "puzzles")
        limit = self.metadata.num_puzzle_identifiers
        allowed = f"0..{limit - 1} (num_puzzle_identifiers is {limit})"
        yield from _range_problems(self._path("puzzle_identifiers"), self.puzzle_identifiers, limit, allowed)
        if self.difficulty is not None:
            yield from self._difficulty_problems(array_path(self.split_dir, self.name, "difficulty"))

    def _difficulty_problems(self, path: Path) -> Iterator[str]:
        if len(self.difficulty) != self.num_examples:
            yield f"{path}: has {len(self.difficulty)} entries, but there are {self.num_examples} examples"
        wrong = np.flatnonzero(~((self.difficulty >= 0) & (self.difficulty < np.inf)))
        if len(wrong):
            more = f"; {len(wrong)} such values in all" if len(wrong) > 1 else ""
            value = self.difficulty[wrong[0]]
            yield f"{path}: index {wrong[0]} is {value}, but a difficulty must be a finite number of at least 0{more}"

    def _path(self, field: str) -> Path:
        return array_path(self.split_dir, self.name, field)


def load_arrays(
    split_dir: Path, set_name: str, fields: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Memory-map arrays by field, and difficulty if it exists; also return the problems of their files.

    `inputs` and `labels` have two dimensions, the others one; all but difficulty hold integers of any width.
    """
    arrays, problems = {}, []
    optional = ("difficulty",) if array_path(split_dir, set_name, "difficulty").exists() else ()
    for field in (*fields, *optional):
        path = array_path(split_dir, set_name, field)
        try:
            array = open_npy(path, missing=f"is missing, but dataset.json lists the set {set_name!r}")
        except UserError as error:
            problems.append(str(error))
            continue
        ndim, kinds = 2 if field in ("inputs", "labels") else 1, "iuf" if field == "difficulty" else "iu"
        if array.ndim != ndim:
            problems.append(
                f"{path}: has {array.ndim} dimensions (shape {array.shape}), but must have {ndim}"
            )
        elif array.dtype.kind not in kinds:
            problems.append(f"{path}: has dtype {array.dtype}, but must hold integers")
        else:
            arrays[field] = array
    return arrays, problems


def _range_problems(
    path: Path, array: np.ndarray, limit: int, allowed: str, also_legal: int | None = None
) -> Iterator[str]:
    """Yield the first value outside 0..limit-1 with the number of such values."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    first, count = None, 0
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        # Minimum and maximum are several times cheaper than a mask, and nearly always sufficient.
        if chunk.max() < limit and (chunk.dtype.kind == "u" or chunk.min() >= 0):
            continue
        bad = (chunk < 0) | (chunk >= limit)
        if also_legal is not None:
            bad &= chunk != also_legal
        if first is None and bad.any():
            index = np.unravel_index(int(bad.argmax()), bad.shape)
            first = (start + int(index[0]), *map(int, index[1:])), chunk[index]
        count += int(bad.sum())
    if first is not None:
        (row, *cell), value = first
        where = f"row {row}, cell {cell[0]}" if cell else f"index {row}"
        more = f"; {count} such values in all" if count > 1 else ""
        yield f"{path}: {where} is {value}, but must be in {allowed}{more}"


def _index_problems(path: Path, indices: np.ndarray, count: int, what: str) -> Iterator[str]:
    """Check that indices start at 0, strictly increase, and end at `count`."""
    if len(indices) < 2:
        yield f"{path}: has {len(indices)} entries, but needs at least 2 (the start and the end of one item)"
        return
    if indices[0] != 0:
        yield f"{path}: index 0 is {indices[0]}, but must be 0"
    falls = np.flatnonzero(indices[1:] <= indices[:-1])
    if len(falls):
        i = int(falls[0]) + 1
        more = f"; {len(falls)} such indices in all" if len(falls) > 1 else ""
        yield f"{path}: does not increase at index {i}: {indices[i - 1]} is followed by {indices[i]}{more}"
    if indices[-1] != count:
        yield f"{path}: index {len(indices) - 1}, the last, is {indices[-1]}, but there are {count} {what}"
