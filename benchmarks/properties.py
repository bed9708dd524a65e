"""Check order, ranks and resume positions of data streams on random datasets.

    python -m benchmarks.properties --layouts 1000 --seed 0

A layout is one or two datasets of random groups, puzzles and examples with random batch size, ranks, epochs and seed.
It is a function of seed and number, so `--first NUMBER --layouts 1` repeats it. The published order of training is
implemented independently below, one draw at a time. Exits with 1 and prints the layout if a property does not hold.

Legend: B global batch, R ranks, S cells of an example.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dataset.format import IGNORE_LABEL_ID, SplitWriter, write_identifiers
from puzzle_dataset import Batch, PuzzleDataset
from utils.errors import UserError

SEQ_LEN = 4
PAD_ID, IGNORED, VOCAB_SIZE = 0, 3, 12  # tokens 2..11 are the digits of the index of an example


@dataclass
class Layout:
    """Settings of the streams, and the true content of all datasets together."""

    batch_size: int
    ranks: int
    epochs: int
    seed: int
    paths: list[str] = field(default_factory=list)
    group_starts: list[int] = field(default_factory=lambda: [0])  # puzzle indices
    puzzle_starts: list[int] = field(default_factory=lambda: [0])  # example indices
    identifiers: list[int] = field(default_factory=list)  # one per puzzle
    labels: list[np.ndarray] = field(default_factory=list)  # (S,) as stored, one per example

    def stream(self, split: str, rank: int = 0, ranks: int = 1) -> PuzzleDataset:
        settings = {"global_batch_size": self.batch_size, "seed": self.seed, "epochs_per_iter": self.epochs}
        return PuzzleDataset(self.paths, split, rank=rank, world_size=ranks, **settings)


def draw_layout(rng: random.Random, folder: Path) -> Layout:
    """Draw a random layout and write its datasets to `folder`; both splits of a dataset have the same examples."""
    ranks = rng.choice((1, 2, 3, 4, 8))
    layout = Layout(ranks * rng.randint(1, 6), ranks, rng.randint(1, 5), rng.randint(0, 2**31))
    most_puzzles, most_examples = rng.choice((1, 3, 10)), rng.choice((1, 2, 8, 40))
    for number in range(rng.choice((1, 1, 2))):
        path = folder / f"data{number}"
        groups = [
            [rng.randint(1, most_examples) for _ in range(rng.randint(1, most_puzzles))]
            for _ in range(rng.randint(1, 12))
        ]
        _write(path, groups, layout)
        layout.paths.append(str(path))
    return layout


def _write(path: Path, groups: list[list[int]], layout: Layout) -> None:
    """Write a dataset and add its content to the layout; groups: number of examples of each puzzle in each group."""
    sizes = {"seq_len": SEQ_LEN, "vocab_size": VOCAB_SIZE}
    writers = [
        SplitWriter(path / split, **sizes, pad_id=PAD_ID, ignore_label_id=IGNORED)
        for split in ("train", "test")
    ]
    for lengths in groups:
        count, first = sum(lengths), layout.puzzle_starts[-1]
        identifiers = len(layout.identifiers) + 1 + np.arange(len(lengths))
        inputs = encode(np.arange(first, first + count))
        labels = np.where(inputs % 3 == 0, IGNORED, inputs)
        for writer in writers:
            writer.add_group(inputs, labels, identifiers, np.array(lengths))
        layout.identifiers += identifiers.tolist()
        layout.labels += list(labels)
        layout.puzzle_starts += (first + np.cumsum(lengths)).tolist()
        layout.group_starts.append(len(layout.identifiers))
    num_identifiers = len(layout.identifiers) + 1
    for writer in writers:
        with writer:
            writer.close(num_identifiers)
    write_identifiers(path, ["<blank>", *(f"{path.name}-{number}" for number in range(1, num_identifiers))])


def encode(numbers: np.ndarray) -> np.ndarray:
    """Encode example indices (n,) as inputs (n, S), one decimal digit per cell."""
    return numbers[:, None] // 10 ** np.arange(SEQ_LEN) % 10 + 2


def decode(inputs: torch.Tensor) -> np.ndarray:
    """Decode inputs (n, S) of a batch to example indices (n,)."""
    return ((inputs.numpy() - 2) * 10 ** np.arange(SEQ_LEN)).sum(1)


def published_batches(layout: Layout, iteration: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the (puzzle, number of examples) draws of each batch, one by one as in the published code."""
    rng = np.random.Generator(np.random.Philox(seed=layout.seed + iteration))
    num_groups = len(layout.group_starts) - 1
    order = np.concatenate([rng.permutation(num_groups) for _ in range(layout.epochs)])
    batch, room = [], layout.batch_size
    for group in order:
        puzzle = int(rng.integers(layout.group_starts[group], layout.group_starts[group + 1]))
        taken = min(room, layout.puzzle_starts[puzzle + 1] - layout.puzzle_starts[puzzle])
        batch.append((puzzle, taken))
        room -= taken
        if room == 0:
            yield batch
            batch, room = [], layout.batch_size


def check_training(layout: Layout, rng: random.Random) -> int:
    """Check the training streams of two iterations; return the number of batches compared."""
    compared = 0
    for iteration in (1, rng.randint(2, 50)):
        expected = list(published_batches(layout, iteration))
        if not expected:
            for rank in range(layout.ranks):
                _check(_raises(layout, rank), "an iteration without a full batch raises UserError")
            continue
        if not _fills_a_batch(layout):
            continue
        whole = layout.stream("train")
        batches = list(whole.batches(iteration))
        _check(len(batches) == len(expected) == whole.num_batches(iteration), "the number of batches")
        for batch, draws in zip(batches, expected, strict=True):
            _check_batch(layout, batch, draws)
        compared += len(batches)
        start = rng.randint(0, len(batches))
        resumed = layout.stream("train").batches(iteration, start)
        _check_same(batches[start:], list(resumed), f"resumed at batch {start}")
        _check_ranks(layout, "train", batches, iteration, rng)
    return compared


def _raises(layout: Layout, rank: int) -> bool:
    try:
        stream = layout.stream("train", rank, layout.ranks)
        for iteration in range(1, 51):
            stream.num_batches(iteration)
    except UserError as error:
        return "fills no batch" in str(error)
    return False


def _fills_a_batch(layout: Layout) -> bool:
    """Return True if the first iteration fills a batch; otherwise the stream cannot be built."""
    return next(published_batches(layout, 1), None) is not None


def _check_batch(layout: Layout, batch: Batch, draws: list[tuple[int, int]]) -> None:
    name, tensors, count = batch
    _check(name == ("all" if len(layout.paths) == 1 else "mixed"), f"the set's name is {name}")
    _check(count == layout.batch_size, "the number of real examples")
    examples = decode(tensors["inputs"])
    begun = 0
    for puzzle, taken in draws:
        drawn = examples[begun : begun + taken]
        low, high = layout.puzzle_starts[puzzle : puzzle + 2]
        _check(bool(((low <= drawn) & (drawn < high)).all()), "puzzles are in the published order")
        _check(len(set(drawn.tolist())) == taken, "no example twice in one draw of a puzzle")
        ours = tensors["puzzle_identifiers"][begun : begun + taken]
        _check(bool((ours == layout.identifiers[puzzle]).all()), "identifiers")
        begun += taken
    _check_labels(layout, examples, tensors["labels"])


def _check_labels(layout: Layout, examples: np.ndarray, labels: torch.Tensor) -> None:
    stored = np.array([layout.labels[example] for example in examples])
    expected = np.where(stored == IGNORED, IGNORE_LABEL_ID, stored)
    _check(np.array_equal(labels.numpy(), expected), "labels")


def _check_ranks(layout: Layout, split: str, whole: list[Batch], iteration: int, rng: random.Random) -> None:
    """Check that slices of all ranks, from a random batch on, concatenate to the batches of a single process."""
    start = rng.randint(0, len(whole))
    ranks = [
        list(layout.stream(split, rank, layout.ranks).batches(iteration, start))
        for rank in range(layout.ranks)
    ]
    _check({len(batches) for batches in ranks} == {len(whole) - start}, "every rank sees all batches")
    joined = []
    for parts in zip(*ranks, strict=True):
        _check(len({(name, count) for name, _, count in parts}) == 1, "ranks agree on set and examples")
        tensors = {key: torch.cat([part[1][key] for part in parts]) for key in parts[0][1]}
        joined.append((parts[0][0], tensors, parts[0][2]))
    _check_same(whole[start:], joined, f"{layout.ranks} ranks from batch {start}")


def check_testing(layout: Layout, rng: random.Random) -> int:
    """Check the test stream: every example once in file order, then padding; return the number of batches."""
    batches = list(layout.stream("test").batches())
    seen = []
    for _, tensors, count in batches:
        _check(0 < count <= layout.batch_size, "the number of real examples")
        examples = decode(tensors["inputs"][:count])
        seen += examples.tolist()
        _check_labels(layout, examples, tensors["labels"][:count])
        puzzles = np.searchsorted(layout.puzzle_starts, examples, side="right") - 1
        identifiers = np.array(layout.identifiers)[puzzles]
        _check(np.array_equal(tensors["puzzle_identifiers"][:count].numpy(), identifiers), "identifiers")
        padding = {"inputs": PAD_ID, "labels": IGNORE_LABEL_ID, "puzzle_identifiers": 0}
        for key, value in padding.items():
            _check(bool((tensors[key][count:] == value).all()), f"padding of {key}")
            _check(len(tensors[key]) == layout.batch_size, f"rows of {key}")
            _check(tensors[key].dtype == torch.int32, f"dtype of {key}")
    _check(seen == list(range(layout.puzzle_starts[-1])), "every example once, in file order")
    _check_ranks(layout, "test", batches, 1, rng)
    return len(batches)


def _check_same(expected: list[Batch], found: list[Batch], what: str) -> None:
    _check(len(expected) == len(found), f"{what}: the number of batches")
    for (name, tensors, count), (other_name, other, other_count) in zip(expected, found, strict=True):
        _check((name, count) == (other_name, other_count), f"{what}: set and number of real examples")
        _check(tensors.keys() == other.keys(), f"{what}: the tensors' names")
        _check(all(torch.equal(tensors[key], other[key]) for key in tensors), f"{what}: tensors")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def run(*, layouts: int, seed: int, first: int = 0) -> bool:
    """Check `layouts` layouts, print a summary, and return True if every property holds."""
    begun, trained, tested, failures = time.perf_counter(), 0, 0, 0
    for number in range(first, first + layouts):
        rng = random.Random(f"{seed} {number}")
        with tempfile.TemporaryDirectory(prefix="properties-") as folder:
            layout = draw_layout(rng, Path(folder))
            try:
                trained += check_training(layout, rng)
                tested += check_testing(layout, rng)
            except AssertionError as error:
                failures += 1
                settings = f"B={layout.batch_size} R={layout.ranks} epochs={layout.epochs} seed={layout.seed}"
                print(f"layout {number} ({settings}): does not hold: {error}")
    print(
        f"{layouts} layouts, {trained} training and {tested} test batches, {failures} failures, "
        f"{time.perf_counter() - begun:.0f} s"
    )
    return not failures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layouts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first layout")
    options = parser.parse_args(arguments)
    return 0 if run(layouts=options.layouts, seed=options.seed, first=options.first) else 1


if __name__ == "__main__":
    sys.exit(main())
