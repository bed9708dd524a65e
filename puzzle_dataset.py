"""Turns datasets on disk into batches: seeded puzzle order, rank slices, padding, resumable position, prefetching.

Legend: B global batch, b rows of this rank (B / world size), S `seq_len`.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from dataset.families import family_notices, family_of
from dataset.families.base import Augmentation
from dataset.families.contract import check_rows
from dataset.format import IGNORE_LABEL_ID, Split, open_split, read_identifiers
from dataset.mixing import (
    MixedSets,
    common_augmentation,
    merge_metadata,
    named_sets,
    refuse_shared_identifiers,
)
from dataset.reveal import easier_puzzles
from dataset.training_order import TrainingOrder
from dataset.units import UNITS_KEY
from utils.device import check_memory
from utils.errors import UserError

SIZE_KEYS = ("seq_len", "vocab_size", "num_puzzle_identifiers")
IDENTIFIERS_KEY = "identifiers_sha256"  # of a run's metadata.json, for `identifier_hashes`

Batch = tuple[str, dict[str, torch.Tensor], int]

# Keep the generators of fresh copies and of revealed cells apart from those of the order.
_COPIES, _REVEALED = 0xC0B1E5, 0x5E7EA1
_MADE_BY = {_COPIES: "its symmetries (augment=online)", _REVEALED: "its easier (reveal_prob)"}


class PuzzleDataset(IterableDataset):
    """Batches `(set_name, {inputs (b, S), labels (b, S), puzzle_identifiers (b,)}, number of real examples in B)`.

    Tensors are int32. With `split="train"` (or `shuffle=True`) one iteration is `epochs_per_iter` passes over the
    groups of all directories and sets, mixed, whole batches only; a batch depends on seed, iteration and its index
    alone. There `augment="online"` shows each drawn example as a fresh symmetric copy, which depends on seed,
    iteration, index and row alone; the order of puzzles stays. `reveal_prob` is the share of drawn puzzles that are
    made easier by a part of their answer (dataset/reveal.py), decided by the same. Otherwise the examples come once,
    in file order, set after set, the last batch of each padded. Every rank sees the same number of batches. Raises
    `UserError` for broken or mismatching datasets, a batch size that the ranks cannot share, an iteration that fills
    no batch, and `augment` on data whose copies have identifiers of their own.
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
            raise UserError("data_paths is empty: name at least one dataset folder")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise UserError(
                f"global_batch_size is {global_batch_size}, but must be a positive multiple of the number of "
                f"processes, which is {world_size}"
            )
        if epochs_per_iter < 1:
            raise UserError(f"an iteration has {epochs_per_iter} epochs, but must have at least 1")
        self.global_batch_size, self.local_batch_size = global_batch_size, global_batch_size // world_size
        self.rank = rank
        self.shuffle = split == "train" if shuffle is None else shuffle
        self.splits: list[tuple[str, Split]] = [
            (str(path), open_split(path, split)) for path in dataset_paths
        ]
        self.metadata = merge_metadata([(path, opened.metadata) for path, opened in self.splits])
        # Two int32 arrays; the batches that are prefetched take several times as much.
        check_memory(
            2 * 4 * self.local_batch_size * self.metadata.seq_len,
            torch.device("cpu"),
            f"global_batch_size={global_batch_size}: a batch",
            "lower it",
        )
        self._sets = named_sets(self.splits)
        self.metadata = replace(self.metadata, sets=tuple(self._sets))
        refuse_shared_identifiers(self.splits, unless_named_alike=not self.shuffle)
        self._iteration = 0
        if self.shuffle:
            self._mixed = MixedSets(list(self._sets.values()))
            self._order = TrainingOrder(
                self._mixed.group_starts, self._mixed.puzzle_starts, global_batch_size, seed, epochs_per_iter
            )
            self._seed = seed
            # Each draws from a generator of its own, so that one does not change what another draws.
            self._augmentations: list[tuple[int, Augmentation]] = []
            if augment:
                self._augmentations.append((_COPIES, common_augmentation(self.splits)))
            if reveal_prob:
                described = [(path, opened.metadata) for path, opened in self.splits]
                self._augmentations.append((_REVEALED, easier_puzzles(reveal_prob, described)))
            self.num_batches(1)  # refuses an iteration that fills no batch

    @property
    def notices(self) -> list[str]:
        """What to tell the user about the datasets: how their families were found if they do not say so themselves."""
        return family_notices([(path, opened.metadata) for path, opened in self.splits])

    @property
    def num_examples(self) -> int:
        """Examples of all sets, over all ranks."""
        return sum(s.num_examples for s in self._sets.values())

    @property
    def model_sizes(self) -> dict[str, Any]:
        """What the data decides about a model: seq_len, vocab_size, num_puzzle_identifiers; units if it has any."""
        sizes = {key: getattr(self.metadata, key) for key in SIZE_KEYS}
        units = family_of(self.metadata).units(", ".join(path for path, _ in self.splits))
        return sizes if units is None else sizes | {UNITS_KEY: units.to_json()}

    def num_batches(self, iteration: int = 1) -> int:
        """Batches of an iteration, the first being 1 (the same on every rank).

        Where puzzles differ in their number of examples this draws the iteration's puzzles, about 0.1 µs each.
        """
        if not self.shuffle:
            return sum(-(-s.num_examples // self.global_batch_size) for s in self._sets.values())
        return self._order.num_batches(iteration)

    def batches(self, iteration: int = 1, start: int = 0) -> Iterator[Batch]:
        """The batches of an iteration from index `start` on; what is skipped is not read."""
        return self._train_batches(iteration, start) if self.shuffle else self._test_batches(start)

    def __iter__(self) -> Iterator[Batch]:
        """Train: the next iteration, beginning with the first. Test: the whole pass."""
        self._iteration += 1
        return self.batches(self._iteration)

    def _train_batches(self, iteration: int, start: int) -> Iterator[Batch]:
        name = self.metadata.sets[0] if len(self._sets) == 1 else "mixed"
        mine = slice(self.rank * self.local_batch_size, (self.rank + 1) * self.local_batch_size)
        for index, (puzzles, examples) in enumerate(self._order.batches(iteration, start), start):
            inputs, labels = self._mixed.read(examples[mine])
            for stream, augmentation in self._augmentations:
                where = f"the family {family_of(self.metadata).name}: {_MADE_BY[stream]}"
                entropy = np.random.SeedSequence((self._seed, iteration, index, stream))
                rng = np.random.Generator(np.random.Philox(entropy))
                made = augmentation(rng, self.global_batch_size, mine, inputs, labels)
                inputs, labels = check_rows(where, made, inputs.shape, self.metadata.vocab_size)
            identifiers = self._mixed.puzzle_identifiers[puzzles[mine]]
            yield name, self._tensors(inputs, labels, identifiers), self.global_batch_size

    def _test_batches(self, start: int) -> Iterator[Batch]:
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
                batch = self._tensors(inputs, labels, identifiers)
                if unknown is not None:
                    batch["labels"][: len(unknown)][torch.from_numpy(unknown)] = IGNORE_LABEL_ID
                yield name, batch, min(size, count - index * size)
            start = max(0, start - here)

    def _tensors(
        self, inputs: np.ndarray, labels: np.ndarray, identifiers: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """int32 tensors with ignored labels at -100, padded to b rows; inputs and labels as stored, (<= b, S)."""
        meta, rows, real = self.metadata, self.local_batch_size, len(inputs)
        out = {
            "inputs": np.empty((rows, meta.seq_len), np.int32),
            "labels": np.empty((rows, meta.seq_len), np.int32),
            "puzzle_identifiers": np.empty(rows, np.int32),
        }
        out["inputs"][:real], out["inputs"][real:] = inputs, meta.pad_id
        out["labels"][:real], out["labels"][real:] = labels, IGNORE_LABEL_ID
        out["puzzle_identifiers"][:real] = identifiers
        out["puzzle_identifiers"][real:] = meta.blank_identifier_id
        if meta.ignore_label_id not in (None, IGNORE_LABEL_ID):
            np.copyto(out["labels"][:real], IGNORE_LABEL_ID, where=labels == meta.ignore_label_id)
        return {key: torch.from_numpy(array) for key, array in out.items()}


def identifiers_hash(dataset_paths: Sequence[str]) -> str:
    """SHA-256 of the puzzle identifiers' names of all directories, in order: what a trained puzzle table belongs to."""
    digest = hashlib.sha256()
    for path in dataset_paths:
        digest.update("\0".join(read_identifiers(path)).encode() + b"\1")
    return digest.hexdigest()


def identifier_hashes(data_paths: Iterable[str]) -> list[str | None]:
    """For each dataset what tells its puzzle identifiers from others, None where no file names them."""
    files = ("identifiers.json", "identifiers.npz")  # lazy datasets have the second
    return [
        identifiers_hash([path]) if any((Path(path) / file).exists() for file in files) else None
        for path in data_paths
    ]


class Prefetcher:
    """Iterates over `batches` in a background thread, at most `depth` items ahead, in unchanged order.

    An exception of the source is raised at its place in the order. `close` (also by leaving a `with` block, or by
    reaching the end) stops and joins the thread. `pin_memory` puts each batch's tensors into page-locked memory.
    """

    def __init__(self, batches: Iterable[Batch], *, depth: int = 4, pin_memory: bool = False):
        assert depth >= 1, depth
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._stop = threading.Event()
        # The thread holds no reference to the prefetcher: an abandoned one is collected, and `__del__` stops it.
        arguments = (batches, self._ready, self._free, self._stop, pin_memory)
        self._thread = threading.Thread(target=_fill, args=arguments, name="prefetcher", daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        if self._stop.is_set():
            raise StopIteration
        kind, value = self._ready.get()
        if kind == "batch":
            self._free.release()
            return value
        self.close()
        raise value

    def close(self) -> None:
        """Stop the thread and wait for it; what was prefetched is dropped."""
        self._stop.set()
        self._free.release()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop.set()
        self._free.release()


def _fill(
    batches: Iterable[Batch],
    ready: queue.SimpleQueue,
    free: threading.Semaphore,
    stop: threading.Event,
    pin_memory: bool,
) -> None:
    """Put ("batch", item) for each item, then ("end", exception to raise)."""
    try:
        source = iter(batches)
        while True:
            free.acquire()
            if stop.is_set():
                break
            name, batch, count = next(source)
            if pin_memory:
                batch = {key: tensor.pin_memory() for key, tensor in batch.items()}
            ready.put(("batch", (name, batch, count)))
    except BaseException as error:  # raised again in the consuming thread, StopIteration included
        ready.put(("end", error))
