"""Measure leakage of a test split: inputs, outputs, and puzzles that also occur in train up to symmetry.

Legend: E examples, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dataset.families.base import Comparison, Family, RowForm
from dataset.format import Split

_CHUNK_CELLS = 1 << 20  # cells read at a time

Canonical = Callable[[np.ndarray], np.ndarray]
Sample = Callable[[np.ndarray], np.ndarray]  # rows (E, S) -> 48 cells of each canonical row

_SAMPLE_CELLS = 48
_MULTIPLIERS = np.random.default_rng(0).integers(1 << 63, 1 << 64, _SAMPLE_CELLS // 8, np.uint64)
_MULTIPLIERS |= np.uint64(1)  # odd multipliers are invertible


@dataclass(frozen=True)
class Overlap:
    """`count` of the `total` items of kind `what` in the test split, such as "inputs", that occur in train."""

    what: str
    count: int
    total: int


def leakage(train: Split, test: Split, family: Family) -> list[Overlap]:
    """Count test rows that equal a train row, and test examples that the family considers equivalent to one.

    Memory grows only with the test split.
    """
    form = family.rows_compared or RowForm(_unchanged, _sample)
    overlaps = _shared_rows(train, test, form.canonical, form.sample)
    return overlaps + [_equivalent(train, test, comparison) for comparison in family.comparisons()]


def _shared_rows(train: Split, test: Split, canonical: Canonical, sample: Sample) -> list[Overlap]:
    """Count shared rows. Rows are compared in full only if a sample of their cells agrees, which is rare."""
    searched = tuple(map(_HashSet, _sample_hashes(test, sample)))  # inputs, labels
    seen, common = (set(), set()), ([], [])
    for rows in _rows(train):
        for hashes, keys, hits, part in zip(searched, seen, common, rows, strict=True):
            drawn = _hashes(sample(part))
            matching = hashes.indices_in(drawn)
            keys.update(_keys(canonical(part[matching])))
            hits.append(np.unique(drawn[matching]))
    candidates = [_HashSet(np.concatenate(hits)) for hits in common]
    counts, totals = [0, 0], [0, 0]
    for inputs, labels in _rows(test):
        # Rows with unknown outputs have only ignored labels, so they must not match each other.
        known = (labels != test.metadata.ignore_label_id).any(1)
        for which, part in enumerate((inputs, labels[known])):
            totals[which] += len(part)
            matching = candidates[which].indices_in(_hashes(sample(part)))
            counts[which] += sum(key in seen[which] for key in _keys(canonical(part[matching])))
    return [
        Overlap(what, count, total)
        for what, count, total in zip(("inputs", "outputs"), counts, totals, strict=True)
    ]


def _sample_hashes(split: Split, sample: Sample) -> list[np.ndarray]:
    """Return the hashes of the samples of all inputs, and of all labels."""
    hashes = [[_hashes(sample(part)) for part in rows] for rows in _rows(split)]
    return [np.concatenate(parts) for parts in zip(*hashes, strict=True)]


class _HashSet:
    """A set of (n,) uint64 hashes with vectorised lookup."""

    _BITS = 24

    def __init__(self, hashes: np.ndarray):
        self._sorted = np.unique(hashes)
        self._table = np.zeros(1 << self._BITS, bool)  # prefixes that occur
        self._table[self._prefixes(self._sorted)] = True

    def indices_in(self, hashes: np.ndarray) -> np.ndarray:
        """Return the ascending indices of the (n,) hashes that are in the set."""
        # A binary search costs about twenty table look-ups, which rule out nearly all other hashes.
        perhaps = np.flatnonzero(self._table.take(self._prefixes(hashes)))
        if not len(perhaps):
            return perhaps
        chosen = hashes[perhaps]
        found = np.minimum(self._sorted.searchsorted(chosen), len(self._sorted) - 1)
        return perhaps[self._sorted[found] == chosen]

    def _prefixes(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - self._BITS)).astype(np.int64)


def _hashes(samples: np.ndarray) -> np.ndarray:
    """Hash rows (E, n) uint8, n a multiple of 8, to (E,) uint64."""
    words = samples.view(np.uint64)
    odd = _MULTIPLIERS[: words.shape[1]]
    mixed = words * odd
    mixed ^= mixed >> np.uint64(32)
    return (mixed * odd[::-1]).sum(1, dtype=np.uint64) * odd[0]


def _sample(rows: np.ndarray) -> np.ndarray:
    """Return 48 evenly spaced cells of each of the rows (E, S)."""
    cells = np.linspace(0, rows.shape[1] - 1, _SAMPLE_CELLS).astype(np.int64)
    return np.ascontiguousarray(rows.take(cells, axis=1), np.uint8)


def _equivalent(train: Split, test: Split, comparison: Comparison) -> Overlap:
    """Count test examples whose key also occurs in train."""
    firsts = first_examples(train) if comparison.per_group else None
    wanted = None
    if comparison.prefilter is not None:
        candidates = {key for inputs, _ in _rows(test) for key in comparison.prefilter(inputs)}
        # Keep train examples that may match a test example, then test examples that may match one of those.
        wanted = {
            key
            for inputs, _ in _rows(train, firsts)
            for key in comparison.prefilter(inputs)
            if key in candidates
        }
    in_test = [key for key in _equivalence_keys(test, comparison, wanted) if key is not None]
    searched = set(in_test)
    in_train = {key for key in _equivalence_keys(train, comparison, wanted, firsts) if key in searched}
    return Overlap(
        comparison.what,
        sum(key in in_train for key in in_test),
        sum(s.num_examples for s in test.sets.values()),
    )


def _equivalence_keys(
    split: Split,
    comparison: Comparison,
    wanted: set[bytes] | None,
    examples: dict[str, np.ndarray] | None = None,
) -> Iterator[bytes | None]:
    """Yield the keys of the examples, restricted to `wanted` prefilter keys."""
    for inputs, labels in _rows(split, examples):
        if wanted is not None:
            kept = np.array([key in wanted for key in comparison.prefilter(inputs)], bool)
            inputs, labels = inputs[kept], labels[kept]
        yield from comparison.keys(inputs, labels)


def first_examples(split: Split) -> dict[str, np.ndarray]:
    """Return by set the first example of each group: the original of which the others are copies."""
    return {name: s.puzzle_indices[s.group_indices[:-1]] for name, s in split.sets.items()}


def _unchanged(rows: np.ndarray) -> np.ndarray:
    return rows


def _rows(
    split: Split, examples: dict[str, np.ndarray] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs and labels of all sets in chunks, restricted to the given examples of each set."""
    step = max(1, _CHUNK_CELLS // split.metadata.seq_len)
    for name, example_set in split.sets.items():
        count = example_set.num_examples if examples is None else len(examples[name])
        for start in range(0, count, step):
            part = slice(start, start + step)
            yield example_set.read(part if examples is None else examples[name][part])


def _keys(rows: np.ndarray) -> list[bytes]:
    """Return the bytes of each row."""
    rows = np.ascontiguousarray(rows, np.uint8)
    return rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1).tolist()
