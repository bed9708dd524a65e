"""Turns datasets on disk into batches: seeded puzzle order, rank slices, padding, resumable position, prefetching.

Legend: B global batch, b rows of this rank (B / world size), S `seq_len`.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset

from dataset.format import (
    AGREEING_KEYS,
    IGNORE_LABEL_ID,
    ExampleSet,
    Metadata,
    Split,
    open_split,
    read_identifiers,
)
from dataset.online_augment import Augmentation, augmentation_of
from utils.errors import UserError

Batch = tuple[str, dict[str, torch.Tensor], int]

_DRAWS_AT_ONCE = 1 << 18  # groups drawn per step of the plan: its memory, whatever the number of epochs
_COPIES = 0xC0B1E5  # keeps the generators of fresh copies apart from those of the order


class PuzzleDataset(IterableDataset):
    """Batches `(set_name, {inputs (b, S), labels (b, S), puzzle_identifiers (b,)}, number of real examples in B)`.

    Tensors are int32. With `split="train"` (or `shuffle=True`) one iteration is `epochs_per_iter` passes over the
    groups of all directories and sets, mixed, whole batches only; a batch depends on seed, iteration and its index
    alone. There `augment="online"` shows each drawn example as a fresh symmetric copy, which depends on seed,
    iteration, index and row alone; the order of puzzles stays. Otherwise the examples come once, in file order, set
    after set, the last batch of each padded. Every rank sees the same number of batches. Raises `UserError` for
    broken or mismatching datasets, a batch size that the ranks cannot share, an iteration that fills no batch, and
    `augment` on data whose copies have identifiers of their own.
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
        self._sets = named_sets(self.splits)
        self.metadata = replace(self.metadata, sets=tuple(self._sets))
        _refuse_shared_identifiers(self.splits, unless_named_alike=not self.shuffle)
        self._iteration = 0
        if self.shuffle:
            self._mixed = _MixedSets(list(self._sets.values()))
            self._order = TrainingOrder(
                self._mixed.group_starts, self._mixed.puzzle_starts, global_batch_size, seed, epochs_per_iter
            )
            self._seed = seed
            self._augment = _common_augmentation(self.splits) if augment else None
            self.num_batches(1)  # refuses an iteration that fills no batch

    @property
    def num_examples(self) -> int:
        """Examples of all sets, over all ranks."""
        return sum(s.num_examples for s in self._sets.values())

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
            if self._augment is not None:
                entropy = np.random.SeedSequence((self._seed, iteration, index, _COPIES))
                rng = np.random.Generator(np.random.Philox(entropy))
                inputs, labels = self._augment(rng, self.global_batch_size, mine, inputs, labels)
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
                identifiers = example_set.puzzle_identifiers[example_set.puzzles_of(mine)]
                yield name, self._tensors(inputs, labels, identifiers), min(size, count - index * size)
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


class TrainingOrder:
    """Which examples fill each batch of each iteration: a pure function of seed, iteration and batch index.

    Groups come in the order of `epochs_per_iter` permutations drawn one after the other from Philox(seed +
    iteration), then one puzzle of each group is drawn from the same generator, as published. Which examples of a
    puzzle are taken, and in which order, comes from a generator of each batch's own.
    """

    def __init__(
        self,
        group_starts: np.ndarray,
        puzzle_starts: np.ndarray,
        batch_size: int,
        seed: int,
        epochs_per_iter: int,
    ):
        self._group_starts = (
            group_starts  # (groups + 1,): puzzles of g are [group_starts[g], group_starts[g + 1])
        )
        self._puzzle_starts = puzzle_starts  # (puzzles + 1,): likewise examples of a puzzle
        self._lengths = np.diff(puzzle_starts)
        self._group_sizes = np.diff(group_starts)
        self._batch_size, self._seed, self._epochs = batch_size, seed, epochs_per_iter
        self._counts: dict[int, int] = {}

    def num_batches(self, iteration: int) -> int:
        """Whole batches of an iteration; raises `UserError` when there is none."""
        if iteration not in self._counts:
            shortest, longest = int(self._lengths.min()), int(self._lengths.max())
            if shortest == longest:  # every batch takes the same number of draws
                count = self._epochs * len(self._group_sizes) // -(-self._batch_size // longest)
            else:
                count = sum(1 for _ in self._batch_puzzles(iteration))
            if not count:
                raise UserError(self._too_few_examples())
            self._counts[iteration] = count
        return self._counts[iteration]

    def batches(self, iteration: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(puzzles, examples), both (B,), of each batch from index `start` on."""
        for index, puzzles in enumerate(self._batch_puzzles(iteration)):
            if index >= start:
                yield self._choose_examples(puzzles, iteration, index)

    def _batch_puzzles(self, iteration: int) -> Iterator[np.ndarray]:
        """The drawn puzzles of each whole batch; the last of them may contribute only some of its examples."""
        waiting = np.empty(0, np.int64)
        for drawn in self.drawn_puzzles(iteration):
            puzzles = np.concatenate([waiting, drawn])
            ends = np.cumsum(self._lengths[puzzles])
            first = used = 0
            while (last := int(np.searchsorted(ends, used + self._batch_size))) < len(puzzles):
                yield puzzles[first : last + 1]
                first, used = last + 1, int(ends[last])
            waiting = puzzles[first:]

    def drawn_puzzles(self, iteration: int) -> Iterator[np.ndarray]:
        """One puzzle for each group of the iteration's order, in pieces that stay small."""
        groups = len(self._group_sizes)
        orders, draws = self._generator(iteration), self._generator(iteration)
        for _ in range(self._epochs):
            draws.permutation(
                groups
            )  # all permutations precede the first puzzle; kept, they could take gigabytes
        per_piece = max(1, _DRAWS_AT_ONCE // groups)
        same_size = int(self._group_sizes.min()) == int(self._group_sizes.max())
        for begun in range(0, self._epochs, per_piece):
            epochs = min(per_piece, self._epochs - begun)
            order = np.concatenate([orders.permutation(groups) for _ in range(epochs)])
            first = self._group_starts[order]
            if same_size:  # the same sequence as below, ten times faster
                yield first + draws.integers(0, self._group_sizes[0], size=len(order))
            else:
                yield draws.integers(first, first + self._group_sizes[order])

    def _choose_examples(
        self, puzzles: np.ndarray, iteration: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        lengths, starts = self._lengths[puzzles], self._puzzle_starts[puzzles]
        if len(puzzles) == self._batch_size and lengths[-1] == 1:
            return puzzles, starts
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=(iteration, index)))
        )
        # All examples of every puzzle but the last, shuffled within each puzzle by sorting (puzzle, random number).
        whole = lengths[:-1]
        position = np.repeat(np.arange(len(whole)), whole)
        within = np.arange(len(position)) - np.repeat(np.cumsum(whole) - whole, whole)
        shuffled = np.argsort(position + rng.random(len(position)))
        room = self._batch_size - len(position)
        tail = rng.choice(lengths[-1], room, replace=False)
        examples = np.concatenate([(starts[position] + within)[shuffled], starts[-1] + tail])
        return np.concatenate([puzzles[position], np.full(room, puzzles[-1])]), examples

    def _generator(self, iteration: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(seed=self._seed + iteration))

    def _too_few_examples(self) -> str:
        longest = np.maximum.reduceat(self._lengths, self._group_starts[:-1]).sum()
        return (
            f"an iteration of {self._epochs} epochs over {len(self._group_sizes)} groups yields at most "
            f"{int(longest) * self._epochs} examples and fills no batch: global_batch_size is {self._batch_size}; "
            "use a smaller global_batch_size or a larger eval_interval"
        )


class _MixedSets:
    """Several sets as one: their examples, puzzles and groups numbered on, in the order given."""

    def __init__(self, sets: list[ExampleSet]):
        self._sets = sets
        self._first_example = np.cumsum([0] + [s.num_examples for s in sets])
        self.puzzle_identifiers = np.concatenate([s.puzzle_identifiers for s in sets])
        self.puzzle_starts = _joined_indices([s.puzzle_indices for s in sets])
        self.group_starts = _joined_indices([s.group_indices for s in sets])

    def read(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels, each (n, S), as stored."""
        if len(self._sets) == 1:
            return self._sets[0].read(examples)
        owners = np.searchsorted(self._first_example, examples, side="right") - 1
        inputs = labels = None
        for owner in np.unique(owners):
            rows = np.flatnonzero(owners == owner)
            some = self._sets[owner].read(examples[rows] - self._first_example[owner])
            if inputs is None:
                inputs, labels = (np.empty((len(examples), array.shape[1]), np.int32) for array in some)
            inputs[rows], labels[rows] = some
        return inputs, labels


def _joined_indices(indices: list[np.ndarray]) -> np.ndarray:
    """One index array from several, each numbered on from the end of the one before."""
    ends = np.cumsum([0] + [int(array[-1]) for array in indices])
    parts = [array[1:].astype(np.int64) + end for array, end in zip(indices, ends, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *parts])


def merge_metadata(described: Sequence[tuple[str, Metadata]]) -> Metadata:
    """The metadata of several (directory, metadata) used together: counts summed, the largest identifier count.

    `extra` keeps what all agree in. Raises `UserError` naming both directories and the key where they do not agree.
    """
    (first_dir, first), *others = described
    for other_dir, other in others:
        for key in AGREEING_KEYS:
            one, two = getattr(first, key), getattr(other, key)
            if one != two:
                raise UserError(
                    f"{key} is {one} in {first_dir}, but {two} in {other_dir}: datasets that are used together must "
                    f"agree in {', '.join(AGREEING_KEYS)}"
                )
    if not others:
        return first
    every = [metadata for _, metadata in described]
    total_puzzles = sum(m.total_puzzles for m in every)
    return replace(
        first,
        num_puzzle_identifiers=max(m.num_puzzle_identifiers for m in every),
        total_groups=sum(m.total_groups for m in every),
        mean_puzzle_examples=sum(m.mean_puzzle_examples * m.total_puzzles for m in every) / total_puzzles,
        total_puzzles=total_puzzles,
        extra={k: v for k, v in first.extra.items() if all(k in m.extra and m.extra[k] == v for m in every)},
    )


def named_sets(splits: list[tuple[str, Split]]) -> dict[str, ExampleSet]:
    """All sets by the name that metrics use: with several directories prefixed by what tells these apart."""
    parts = [Path(os.path.abspath(path)).parts for path, _ in splits]
    for i, path in enumerate(parts):
        if path in parts[:i]:
            raise UserError(f"{splits[i][0]}: is named twice; name every dataset folder once")
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    prefixes = ["/".join(path[-depth:]) + "/" if len(parts) > 1 else "" for path in parts]
    return {
        prefix + name: example_set
        for prefix, (_, opened) in zip(prefixes, splits, strict=True)
        for name, example_set in opened.sets.items()
    }


def _refuse_shared_identifiers(splits: list[tuple[str, Split]], *, unless_named_alike: bool) -> None:
    """Raise `UserError` when two directories use the same identifier, the blank one excepted.

    In evaluation two test sets may show the same puzzle: identifiers with equal names are no collision there.
    """
    if len(splits) == 1:
        return
    used = []
    for _, opened in splits:
        identifiers = np.unique(np.concatenate([s.puzzle_identifiers for s in opened.sets.values()]))
        used.append(identifiers[identifiers != opened.metadata.blank_identifier_id])
    for j in range(len(splits)):
        for i in range(j):
            shared = np.intersect1d(used[i], used[j])
            if len(shared) and unless_named_alike:
                names, others = (read_identifiers(splits[k][0]) for k in (i, j))
                shared = [s for s in shared if names[s : s + 1] != others[s : s + 1]]
            if len(shared):
                raise UserError(
                    f"puzzle identifier {shared[0]} ({len(shared)} in all) is used by both {splits[i][0]} and "
                    f"{splits[j][0]}: build one of them with another --puzzle-identifiers-start"
                )


def _common_augmentation(splits: list[tuple[str, Split]]) -> Augmentation:
    """The fresh copies that all directories allow alike; raises `UserError` where they differ, or one allows none."""
    (first_dir, first), *others = [(path, augmentation_of(opened.metadata, path)) for path, opened in splits]
    for other_dir, other in others:
        if other != first:
            raise UserError(
                f"augment=online needs one kind of copies for all data, but {first_dir} takes {first} and {other_dir} "
                f"{other}: leave out augment, or train on one of them"
            )
    return first


def identifiers_hash(dataset_paths: Sequence[str]) -> str:
    """SHA-256 of the puzzle identifiers' names of all directories, in order: what a trained puzzle table belongs to."""
    digest = hashlib.sha256()
    for path in dataset_paths:
        digest.update("\0".join(read_identifiers(path)).encode() + b"\1")
    return digest.hexdigest()


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Successive groups of `size` batches; what is left over at the end is dropped."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


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
