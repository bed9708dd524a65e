"""Batches from datasets on disk: seeded order, slices per rank, padding, resumable position, prefetching.

Legend: B global batch, b rows of this rank (B / world size), S `seq_len`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from dataset.families import family_notices, family_of
from dataset.families.base import Augmentation
from dataset.families.contract import check_rows
from dataset.format import IGNORE_LABEL_ID, Metadata, Split, open_split, read_identifiers
from dataset.mixing import (
    MixedSets,
    check_distinct_identifiers,
    common_augmentation,
    merge_metadata,
    named_sets,
)
from dataset.reveal import easier_puzzles
from dataset.training_order import TrainingOrder
from dataset.units import UNITS_KEY
from utils.device import check_memory
from utils.errors import UserError

SIZE_KEYS = ("seq_len", "vocab_size", "num_puzzle_identifiers")
IDENTIFIERS_KEY = "identifiers_sha256"  # key of `identifier_hashes` in the metadata.json of a run

Batch = tuple[str, dict[str, torch.Tensor], int]

# Streams of online copies and of revealed cells, independent of the generators of the order.
_COPIES, _REVEALED = 0xC0B1E5, 0x5E7EA1
_MADE_BY = {_COPIES: "its symmetries (augment=online)", _REVEALED: "its easier (reveal_prob)"}


class PuzzleDataset(IterableDataset):
    """Yield `(set_name, {inputs (b, S), labels (b, S), puzzle_identifiers (b,)}, number of real examples in B)`.

    Tensors are int32. With `split="train"` (or `shuffle=True`), an iteration is `epochs_per_iter` passes over the
    groups of all directories and sets, mixed, in full batches only; a batch is a function of seed, iteration and index.
    `augment="online"` replaces each example by a random symmetric copy, and `reveal_prob` is the share of puzzles that
    are made easier (dataset/reveal.py); both are functions of seed, iteration, index and row, and do not change the
    order of puzzles. Otherwise every example occurs once, in file order, set after set, and the last batch of each set
    is padded. All ranks see the same number of batches. Raises `UserError` for invalid or mismatching datasets, a batch
    size that cannot be divided among ranks, an iteration that fills no batch, and `augment` if copies would need their
    own identifiers.
    """

    def __init__(
        self,
        dataset_paths: Sequence[str],
        split: str,
        *,
        global_batch_size: int,
        seed: int = 0,
        epochs_per_iter: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool | None = None,
        augment: str | None = None,
        reveal_prob: float = 0.0,
    ):
        super().__init__()
        assert not isinstance(dataset_paths, str | Path), "dataset_paths is a list"
        assert 0 <= rank < world_size, (rank, world_size)
        if not dataset_paths:
            raise UserError("data_paths is empty: give at least one dataset folder")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise UserError(
                f"global_batch_size is {global_batch_size}, but must be a positive multiple of the number of "
                f"processes, which is {world_size}"
            )
        if epochs_per_iter < 1:
            raise UserError(f"an iteration of {epochs_per_iter} epochs must have at least 1")
        self.global_batch_size, self.local_batch_size = global_batch_size, global_batch_size // world_size
        self.rank = rank
        self.shuffle = split == "train" if shuffle is None else shuffle
        self.splits: list[tuple[str, Split]] = [
            (str(path), open_split(path, split)) for path in dataset_paths
        ]
        self.metadata = merge_metadata([(path, opened.metadata) for path, opened in self.splits])
        # Two int32 arrays; prefetched batches need several times as much.
        check_memory(
            2 * 4 * self.local_batch_size * self.metadata.seq_len,
            torch.device("cpu"),
            f"global_batch_size={global_batch_size}: a batch",
            "lower it",
        )
        self._sets = named_sets(self.splits)
        self.metadata = replace(self.metadata, sets=tuple(self._sets))
        check_distinct_identifiers(self.splits, allow_same_names=not self.shuffle)
        self._iteration = 0
        if self.shuffle:
            self._mixed = MixedSets(list(self._sets.values()))
            self._order = TrainingOrder(
                self._mixed.group_starts, self._mixed.puzzle_starts, global_batch_size, seed, epochs_per_iter
            )
            self._seed = seed
            # Each has its own generator, so that they do not change each other's draws.
            self._augmentations: list[tuple[int, Augmentation]] = []
            if augment:
                self._augmentations.append((_COPIES, common_augmentation(self.splits)))
            if reveal_prob:
                described = [(path, opened.metadata) for path, opened in self.splits]
                self._augmentations.append((_REVEALED, easier_puzzles(reveal_prob, described)))
            self.num_batches(1)  # raises UserError if an iteration fills no batch

    @property
    def notices(self) -> list[str]:
        """Messages for the user about the datasets, such as how their families were detected."""
        return family_notices([(path, opened.metadata) for path, opened in self.splits])

    @property
    def num_examples(self) -> int:
        """Number of examples of all sets, over all ranks."""
        return sum(s.num_examples for s in self._sets.values())

    @property
    def model_sizes(self) -> dict[str, Any]:
        """Model sizes given by the data: seq_len, vocab_size, num_puzzle_identifiers, and units if it has any."""
        sizes = {key: getattr(self.metadata, key) for key in SIZE_KEYS}
        units = family_of(self.metadata).units(", ".join(path for path, _ in self.splits))
        return sizes if units is None else sizes | {UNITS_KEY: units.to_json()}

    def num_batches(self, iteration: int = 1) -> int:
        """Return the number of batches in an iteration, counted from 1; the same on every rank.

        If puzzles differ in their number of examples, this draws the puzzles of the iteration, at about 0.1 µs each.
        """
        if not self.shuffle:
            return sum(-(-s.num_examples // self.global_batch_size) for s in self._sets.values())
        return self._order.num_batches(iteration)

    def batches(self, iteration: int = 1, start: int = 0, *, narrow: bool = False) -> Iterator[Batch]:
        """Yield the batches of an iteration from index `start` on; skipped batches are not read.

        With `narrow`, tokens have the smallest dtypes that hold them, uint8 and int8 for up to 128 tokens, which saves
        most of the time of a batch; pass such batches through `on_device`.
        """
        if self.shuffle:
            return self._train_batches(iteration, start, narrow)
        return self._test_batches(start, narrow)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next iteration in training, or of a full pass otherwise."""
        self._iteration += 1
        return self.batches(self._iteration)

    def _train_batches(self, iteration: int, start: int, narrow: bool) -> Iterator[Batch]:
        name = self.metadata.sets[0] if len(self._sets) == 1 else "mixed"
        mine = slice(self.rank * self.local_batch_size, (self.rank + 1) * self.local_batch_size)
        for index, (puzzles, examples) in enumerate(self._order.batches(iteration, start), start):
            inputs, labels = self._mixed.read(examples[mine])
            for stream, augmentation in self._augmentations:
                where = f"the family {family_of(self.metadata).name}: {_MADE_BY[stream]}"
                entropy = np.random.SeedSequence((self._seed, iteration, index, stream))
                rng = np.random.Generator(np.random.Philox(entropy))
                made = augmentation(rng, self.global_batch_size, mine, inputs, labels)
                inputs, labels = check_rows(
                    where, made, inputs.shape, self.metadata.vocab_size, self.metadata.ignore_label_id
                )
            identifiers = self._mixed.puzzle_identifiers[puzzles[mine]]
            yield name, self._tensors(inputs, labels, identifiers, narrow), self.global_batch_size

    def _test_batches(self, start: int, narrow: bool) -> Iterator[Batch]:
        size, rows = self.global_batch_size, self.local_batch_size
        for name, example_set in self._sets.items():
            count = example_set.num_examples
            here = -(-count // size)
            for index in range(min(start, here), here):
                first = index * size + self.rank * rows
                mine = np.arange(first, max(first, min(first + rows, count)))  # may be empty
                inputs, labels = example_set.read(mine)
                unknown = family_of(example_set.metadata).unknown_labels(labels)
                identifiers = example_set.puzzle_identifiers[example_set.puzzles_of(mine)]
                batch = self._tensors(inputs, labels, identifiers, narrow)
                if unknown is not None:
                    batch["labels"][: len(unknown)][torch.from_numpy(unknown)] = IGNORE_LABEL_ID
                yield name, batch, min(size, count - index * size)
            start = max(0, start - here)

    def _tensors(
        self, inputs: np.ndarray, labels: np.ndarray, identifiers: np.ndarray, narrow: bool
    ) -> dict[str, torch.Tensor]:
        """Convert stored inputs and labels (<= b, S) to tensors, padded to b rows, ignored labels as -100."""
        meta, rows, real = self.metadata, self.local_batch_size, len(inputs)
        labels = with_ignored(labels, meta)
        dtypes = narrow_dtypes(meta.vocab_size)
        if narrow and real == rows:
            # Stored rows usually have these dtypes already, and are not copied again.
            tokens = [
                np.require(part, dtype, "CW") for part, dtype in zip((inputs, labels), dtypes, strict=True)
            ]
        else:
            shape = rows, meta.seq_len
            if narrow:
                tokens = [np.empty(shape, dtype) for dtype in dtypes]
            else:
                tokens = np.empty((2, *shape), np.int32)  # as one block NumPy asks for large pages
            tokens[0][:real], tokens[0][real:] = inputs, meta.pad_id
            tokens[1][:real], tokens[1][real:] = labels, IGNORE_LABEL_ID
        padded = np.full(rows, meta.blank_identifier_id, np.int32)
        padded[:real] = identifiers
        arrays = {"inputs": tokens[0], "labels": tokens[1], "puzzle_identifiers": padded}
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def on_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy a batch to a device and widen its tensors to int32 there, which copies a quarter of the bytes.

    Does not wait for the copy if the batch is in page-locked memory.
    """
    return {name: value.to(device, non_blocking=True).int() for name, value in batch.items()}


def narrow_dtypes(vocab_size: int) -> list[type[np.integer]]:
    """Return the smallest dtypes that hold all inputs, and all labels with -100; torch has few unsigned ones."""
    return [
        next(dtype for dtype in (smallest, np.int16, np.int32) if vocab_size - 1 <= np.iinfo(dtype).max)
        for smallest in (np.uint8, np.int8)
    ]


def with_ignored(labels: np.ndarray, metadata: Metadata) -> np.ndarray:
    """Labels (n, S) of any dtype with -100 instead of the data's `ignore_label_id`; new unless nothing changes.

    Tokens of 7 bits are changed as bytes, which become int8: a quarter of the memory traffic of int32.
    """
    ignored = metadata.ignore_label_id
    if ignored in (None, IGNORE_LABEL_ID):
        return labels
    if labels.dtype == np.uint8 and metadata.vocab_size <= 128:
        # Modulo 256: a byte that is ignored becomes that of -100, the others stay.
        change = (labels == ignored).view(np.uint8)
        change *= np.uint8((IGNORE_LABEL_ID - ignored) % 256)
        change += labels
        return change.view(np.int8)
    return np.where(labels == ignored, np.int32(IGNORE_LABEL_ID), labels)


def identifiers_hash(dataset_paths: Sequence[str]) -> str:
    """Return the SHA-256 of the identifier names of all directories, which a puzzle table belongs to."""
    digest = hashlib.sha256()
    for path in dataset_paths:
        digest.update("\0".join(read_identifiers(path)).encode() + b"\1")
    return digest.hexdigest()


def identifier_hashes(data_paths: Iterable[str]) -> list[str | None]:
    """Return the hash of the puzzle identifiers of each dataset, None if it has no identifier names."""
    files = ("identifiers.json", "identifiers.npz")  # lazy datasets have the second
    return [
        identifiers_hash([path]) if any((Path(path) / file).exists() for file in files) else None
        for path in data_paths
    ]


class Prefetcher:
    """Prefetch up to `depth` items of `batches` in a background thread, keeping their order.

    An exception in `batches` is raised at its position in the order. `close`, leaving a `with` block and reaching the
    end stop and join the thread. `pin_memory` moves the tensors of each batch to page-locked memory.
    """

    def __init__(self, batches: Iterable[Batch], *, depth: int = 4, pin_memory: bool = False):
        assert depth >= 1, depth
        self._source: Iterator[Batch] = iter(batches)
        self._pin_memory = pin_memory
        # An executor that is collected ends its thread, which holds no reference to the prefetcher.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetcher")
        self._ahead: deque[Future[Batch]] = deque()
        for _ in range(depth):
            self._take()

    def _take(self) -> None:
        self._ahead.append(self._pool.submit(_next_batch, self._source, self._pin_memory))

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        if not self._ahead:
            raise StopIteration
        try:
            batch = self._ahead.popleft().result()
        except BaseException:  # raised by the source, including StopIteration
            self.close()
            raise
        self._take()
        return batch

    def close(self) -> None:
        """Stop the thread, wait for it, and drop prefetched batches."""
        self._ahead.clear()
        self._pool.shutdown(cancel_futures=True)
        self._source = iter(())

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _next_batch(source: Iterator[Batch], pin_memory: bool) -> Batch:
    name, batch, count = next(source)
    if pin_memory:
        batch = {key: tensor.pin_memory() for key, tensor in batch.items()}
    return name, batch, count
