"""Streaming writer of the dataset format: arrays grow under temporary names and are renamed together at the end.

Legend: E examples, S `seq_len`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.example_set import FIELD_DTYPES, array_path
from dataset.metadata import Metadata
from utils.errors import UserError
from utils.files import temporary_path, write_text
from utils.interrupts import signals_held_back

_MAX_INDEX = np.iinfo(np.int32).max


class SplitWriter:
    """Stream one split to disk in constant memory.

    Use it as a context manager and call `close` inside. Until then all files have temporary names, so an exception or
    a kill leaves an existing dataset unchanged. `extra` may be modified until `close`.
    """

    def __init__(
        self,
        split_dir: str | Path,
        *,
        seq_len: int,
        vocab_size: int,
        pad_id: int = 0,
        ignore_label_id: int | None = 0,
        blank_identifier_id: int = 0,
        set_name: str = "all",
        extra: dict | None = None,
    ):
        assert vocab_size <= 256, f"tokens are stored as uint8, {vocab_size} of them do not fit"
        assert ignore_label_id is None or 0 <= ignore_label_id <= 255, ignore_label_id
        self.split_dir = Path(split_dir)
        self.extra = dict(extra or {})
        self.num_examples = self.num_puzzles = self.num_groups = 0
        self._group_is_open = False
        self._tokens = {
            "pad_id": pad_id,
            "ignore_label_id": ignore_label_id,
            "blank_identifier_id": blank_identifier_id,
            "vocab_size": vocab_size,
            "seq_len": seq_len,
        }
        self._set_name = set_name
        self._max_identifier = blank_identifier_id
        self.split_dir.mkdir(parents=True, exist_ok=True)
        self._streams: dict[str, _ArrayStream] = {}
        for field, dtype in FIELD_DTYPES.items():
            self._open_stream(field, dtype, (seq_len,) if field in ("inputs", "labels") else ())
        self._streams["puzzle_indices"].append(np.zeros(1))
        self._streams["group_indices"].append(np.zeros(1))

    def add_group(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        puzzle_identifiers: np.ndarray,
        puzzle_lengths: np.ndarray | None = None,
        difficulty: np.ndarray | None = None,
        *,
        complete: bool = True,
    ) -> None:
        """Append one group: a puzzle and its augmented copies.

        inputs, labels: (E, S) tokens of any integer dtype. puzzle_identifiers: (puzzles,). puzzle_lengths:
        (puzzles,) examples per puzzle, default one. difficulty: (E,) numbers, in every group or in none. With
        complete=False the next call continues the same group, so that a large group can be added in parts.
        """
        group_lengths = [len(puzzle_identifiers)]
        self.add_groups(
            inputs, labels, puzzle_identifiers, puzzle_lengths, group_lengths, difficulty, complete=complete
        )

    def add_groups(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        puzzle_identifiers: np.ndarray,
        puzzle_lengths: np.ndarray | None = None,
        group_lengths: np.ndarray | None = None,
        difficulty: np.ndarray | None = None,
        *,
        complete: bool = True,
    ) -> None:
        """Append many groups, like `add_group`; group_lengths: (groups,) puzzles per group, default one.

        complete: True if the last group ends here.
        """
        inputs, labels, identifiers = map(np.asarray, (inputs, labels, puzzle_identifiers))
        ones = np.ones(len(identifiers), np.int64)
        per_puzzle = ones if puzzle_lengths is None else np.asarray(puzzle_lengths)
        per_group = ones if group_lengths is None else np.asarray(group_lengths)
        expected = (int(per_puzzle.sum()), self._tokens["seq_len"])
        assert inputs.shape == labels.shape == expected, (inputs.shape, labels.shape, expected)
        assert len(per_puzzle) == len(identifiers) == per_group.sum(), (len(per_puzzle), len(identifiers))
        assert len(per_group), "no group was given"
        assert per_group.min() > 0, "a group without puzzles"
        assert per_puzzle.min() > 0, "a puzzle without examples"
        assert self.num_examples + len(inputs) <= _MAX_INDEX, "more examples than int32 can count"
        assert identifiers.min() >= 0, f"negative puzzle identifier {identifiers.min()}"
        self._check_tokens(inputs, labels)
        self._add_difficulty(difficulty, len(inputs))

        self._streams["inputs"].append(inputs)
        self._streams["labels"].append(labels)
        self._streams["puzzle_identifiers"].append(identifiers)
        self._streams["puzzle_indices"].append(self.num_examples + np.cumsum(per_puzzle))
        group_ends = self.num_puzzles + np.cumsum(per_group)[: None if complete else -1]
        self._streams["group_indices"].append(group_ends)
        self._group_is_open = not complete
        self._max_identifier = max(self._max_identifier, int(identifiers.max()))
        self.num_examples += len(inputs)
        self.num_puzzles += len(identifiers)
        self.num_groups += len(group_ends)

    def close(self, num_puzzle_identifiers: int) -> Metadata:
        """Publish the split under its final names, dataset.json last, and return its metadata."""
        return close_splits([self], num_puzzle_identifiers)[0]

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *exception) -> None:
        for stream in self._streams.values():  # a no-op after `close`
            stream.discard()

    def _open_stream(self, field: str, dtype: type, row_shape: tuple[int, ...]) -> None:
        path = array_path(self.split_dir, self._set_name, field)
        self._streams[field] = _ArrayStream(path, dtype, row_shape)

    def _check_tokens(self, inputs: np.ndarray, labels: np.ndarray) -> None:
        limit, ignored = self._tokens["vocab_size"], self._tokens["ignore_label_id"]
        low, high = inputs.min(), inputs.max()
        assert 0 <= low <= high < limit, f"inputs span {low}..{high}, but vocab_size is {limit}"
        low, high = labels.min(), labels.max()
        if ignored is not None and not 0 <= low <= high < limit:
            kept = labels[labels != ignored]
            low, high = kept.min(initial=0), kept.max(initial=0)
        assert 0 <= low <= high < limit, f"labels span {low}..{high}, but vocab_size is {limit}"

    def _add_difficulty(self, difficulty: np.ndarray | None, count: int) -> None:
        consistent = self.num_examples == 0 or (difficulty is not None) == ("difficulty" in self._streams)
        assert consistent, "difficulty must be given with every group or with none"
        if difficulty is None:
            return
        difficulty = np.asarray(difficulty)
        assert difficulty.shape == (count,), (difficulty.shape, count)
        if "difficulty" not in self._streams:
            self._open_stream("difficulty", np.float32 if difficulty.dtype.kind == "f" else np.int32, ())
        self._streams["difficulty"].append(difficulty)

    def _metadata(self, num_puzzle_identifiers: int) -> Metadata:
        assert not self._group_is_open, "the last group is not complete"
        assert self._max_identifier < num_puzzle_identifiers, (self._max_identifier, num_puzzle_identifiers)
        return Metadata(
            **self._tokens,
            num_puzzle_identifiers=num_puzzle_identifiers,
            total_groups=self.num_groups,
            mean_puzzle_examples=self.num_examples / self.num_puzzles,
            total_puzzles=self.num_puzzles,
            sets=(self._set_name,),
            extra=self.extra,
        )

    def _publish_arrays(self) -> None:
        for stream in self._streams.values():
            stream.publish()
        current = {stream.path for stream in self._streams.values()}
        for path in self.split_dir.glob(f"{self._set_name}__*.npy"):
            if path not in current:  # optional array of the replaced dataset
                path.unlink()


def close_splits(writers: Sequence[SplitWriter], num_puzzle_identifiers: int) -> list[Metadata]:
    """Publish several splits of one dataset in one step and return their metadata.

    Old dataset.json files are removed first and new ones written last, so that a kill in between leaves splits that
    do not open, never a new train split with an old test split. Raises `UserError` for a split without puzzles.
    """
    for writer in writers:
        if not writer.num_groups:
            raise UserError(f"{writer.split_dir}: there is no puzzle to write to this split")
    metadata = [writer._metadata(num_puzzle_identifiers) for writer in writers]
    texts = [json.dumps(m.to_json(), indent=2) for m in metadata]  # an error here changes nothing on disk
    for writer in writers:
        for stream in writer._streams.values():
            stream.finish()
    with signals_held_back():
        for writer in writers:
            (writer.split_dir / "dataset.json").unlink(missing_ok=True)
        for writer in writers:
            writer._publish_arrays()
        for writer, text in zip(writers, texts, strict=True):
            write_text(writer.split_dir / "dataset.json", text + "\n")
    return metadata


class _ArrayStream:
    """An .npy file that grows by rows, under a temporary name until `publish`."""

    HEADER_BYTES = 128  # fixed, so that the row count can be filled in at the end

    def __init__(self, path: Path, dtype: type, row_shape: tuple[int, ...]):
        self.path, self._dtype, self._row_shape = path, np.dtype(dtype), row_shape
        self._temporary = temporary_path(path)
        self._num_rows = 0
        self._file = open(self._temporary, "wb", buffering=1 << 20)  # noqa: SIM115 - see finish and discard
        self._file.write(bytes(self.HEADER_BYTES))

    def append(self, rows: np.ndarray) -> None:
        """Append rows, converted to the dtype of the stream."""
        assert rows.shape[1:] == self._row_shape, (rows.shape, self._row_shape)
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self._num_rows += len(rows)

    def finish(self) -> None:
        """Write the header and fsync the file."""
        shape = (self._num_rows, *self._row_shape)
        header = f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
        prefix = b"\x93NUMPY\x01\x00" + (self.HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(prefix + header.ljust(self.HEADER_BYTES - 11).encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def publish(self) -> None:
        """Rename the finished file to its final name."""
        assert self._file.closed, self.path
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the temporary file, if it exists."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
