"""How much of a test split occurs in train: inputs, outputs, and puzzles that a legal symmetry makes equal.

Legend: E examples, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral
from dataset.format import Split
from dataset.look import Look
from dataset.maze import SYMBOLS, VOCAB_SIZE
from dataset.sudoku import BoxShape, is_solution, to_values, units
from dataset.sudoku_hash import invariant_hashes, solution_hashes

_CHUNK_CELLS = 1 << 20  # cells read at a time
_BLANK_TOKEN = 1  # of Sudoku; tokens above are digits

Canonical = Callable[[np.ndarray], np.ndarray]
Sample = Callable[[np.ndarray], np.ndarray]  # rows (E, S) to 48 cells of each, as `Canonical` would have them

_SAMPLE_CELLS = 48
# Within a frame of 30 x 30, dense at the top left: grids may be small.
_NEAR = (0, 1, 2, 4, 6, 9, 13)
_UNSHIFTED_PLACES = np.array([30 * row + column for row in _NEAR for column in _NEAR][1:])
_MULTIPLIERS = np.random.default_rng(0).integers(1 << 63, 1 << 64, _SAMPLE_CELLS // 8, np.uint64)
_MULTIPLIERS |= np.uint64(1)  # odd ones lose no bit


@dataclass(frozen=True)
class Overlap:
    """`count` of the `total` things of the test split, such as "inputs", that occur in train."""

    what: str
    count: int
    total: int


def leakage(train: Split, test: Split, look: Look) -> list[Overlap]:
    """What test shares with train. Memory grows with the test split only.

    ARC grids are compared without their position in the frame, because train examples are shifted; Sudoku and
    maze puzzles are also compared up to their symmetries.
    """
    if look.family == "arc":
        overlaps = _shared_rows(train, test, unshifted, _sample_of_unshifted)
    else:
        overlaps = _shared_rows(train, test, _unchanged, _sample)
    if look.family == "sudoku":
        overlaps.append(_equivalent_sudoku(train, test, look.box))
        overlaps.append(_equivalent_solutions(train, test, look.box))
    if look.family == "maze":
        overlaps.append(_equivalent_mazes(train, test, look.shape))
    return overlaps


def _shared_rows(train: Split, test: Split, canonical: Canonical, sample: Sample) -> list[Overlap]:
    """Rows are compared in full only where some of their cells agree: most differ there already."""
    wanted = tuple(map(_HashSet, _sample_hashes(test, sample)))  # of the inputs, of the labels
    seen, common = (set(), set()), ([], [])
    for rows in _rows(train):
        for hashes, keys, hits, part in zip(wanted, seen, common, rows, strict=True):
            drawn = _hashes(sample(part))
            alike = hashes.indices_in(drawn)
            keys.update(_keys(canonical(part[alike])))
            hits.append(np.unique(drawn[alike]))
    candidates = [_HashSet(np.concatenate(hits)) for hits in common]
    counts, totals = [0, 0], [0, 0]
    for inputs, labels in _rows(test):
        # An unknown output equals no other, although their ignored labels are the same.
        known = (labels != test.metadata.ignore_label_id).any(1)
        for which, part in enumerate((inputs, labels[known])):
            totals[which] += len(part)
            alike = candidates[which].indices_in(_hashes(sample(part)))
            counts[which] += sum(key in seen[which] for key in _keys(canonical(part[alike])))
    return [
        Overlap(what, count, total)
        for what, count, total in zip(("inputs", "outputs"), counts, totals, strict=True)
    ]


def _sample_hashes(split: Split, sample: Sample) -> list[np.ndarray]:
    """Hashes of the samples of all inputs, of all labels."""
    hashes = [[_hashes(sample(part)) for part in rows] for rows in _rows(split)]
    return [np.concatenate(parts) for parts in zip(*hashes, strict=True)]


class _HashSet:
    """A set of (n,) uint64 hashes that answers for whole arrays at once."""

    _BITS = 24

    def __init__(self, hashes: np.ndarray):
        self._sorted = np.unique(hashes)
        self._table = np.zeros(1 << self._BITS, bool)  # which beginnings of a hash there are
        self._table[self._beginnings(self._sorted)] = True

    def indices_in(self, hashes: np.ndarray) -> np.ndarray:
        """The indices of those (n,) hashes that are in the set, ascending."""
        # A search costs as much as twenty look-ups, which tell nearly all of the others.
        perhaps = np.flatnonzero(self._table.take(self._beginnings(hashes)))
        if not len(perhaps):
            return perhaps
        chosen = hashes[perhaps]
        places = np.minimum(self._sorted.searchsorted(chosen), len(self._sorted) - 1)
        return perhaps[self._sorted[places] == chosen]

    def _beginnings(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - self._BITS)).astype(np.int64)


def _hashes(samples: np.ndarray) -> np.ndarray:
    """(E,) uint64 hashes of (E, n) uint8, n a multiple of 8."""
    words = samples.view(np.uint64)
    odd = _MULTIPLIERS[: words.shape[1]]
    mixed = words * odd
    mixed ^= mixed >> np.uint64(32)
    return (mixed * odd[::-1]).sum(1, dtype=np.uint64) * odd[0]


def _sample(rows: np.ndarray) -> np.ndarray:
    """(E, 48) uint8: cells of the rows (E, S), spread evenly."""
    places = np.linspace(0, rows.shape[1] - 1, _SAMPLE_CELLS).astype(np.int64)
    return np.ascontiguousarray(rows.take(places, axis=1), np.uint8)


def _sample_of_unshifted(rows: np.ndarray) -> np.ndarray:
    """(E, 48) uint8: cells of what `unshifted` makes of rows (E, S), without making it."""
    rows = np.ascontiguousarray(rows)
    count, length = rows.shape
    places = (rows > 1).argmax(1)[:, None] + _UNSHIFTED_PLACES
    inside = places < length
    places = np.minimum(places, length - 1, out=places)
    places += length * np.arange(count)[:, None]
    cells = rows.reshape(-1).take(places)
    return np.where(inside & (cells > 1), cells, 0).astype(np.uint8, copy=False)


def _equivalent_mazes(train: Split, test: Split, shape: tuple[int, int]) -> Overlap:
    """Test mazes that are a train maze turned, mirrored or with start and goal exchanged."""
    start, goal = (SYMBOLS.index(symbol) + 1 for symbol in "SG")
    exchange = np.arange(VOCAB_SIZE, dtype=np.uint8)
    exchange[[start, goal]] = goal, start
    keeping = range(NUM_DIHEDRAL) if shape[0] == shape[1] else (0, 2, 4, 5)  # transforms that keep the shape
    images = []  # per test maze, the keys of its images
    for inputs, _ in _rows(test):
        stacks = [tokens.reshape(-1, *shape) for tokens in (inputs, exchange[inputs])]
        turned = (dihedral(grids, t).reshape(inputs.shape) for grids in stacks for t in keeping)
        images += zip(*map(_keys, turned), strict=True)
    unseen = {key for keys in images for key in keys}
    found = set()
    for inputs, _ in _rows(train):
        found.update(unseen.intersection(_keys(inputs)))
    count = sum(not found.isdisjoint(keys) for keys in images)
    return Overlap("inputs turned, mirrored or with S and G exchanged", count, len(images))


def _equivalent_sudoku(train: Split, test: Split, box: BoxShape) -> Overlap:
    """Test puzzles that the legal symmetries turn into a train puzzle, told by invariant hashes.

    One example of each train group is enough, as its others are images of it. Where a label is no full solution
    there is no hash, and its puzzle counts as not found.
    """
    # The full hash costs 30 µs a puzzle; counts of givens, a fiftieth of that, leave it few to tell apart.
    wanted = {key for inputs, _ in _rows(test) for key in _keys(_given_counts(inputs, box))}
    firsts = first_examples(train)
    seen, in_train = _alike(train, box, wanted, firsts)
    _, in_test = _alike(test, box, seen)
    total = sum(s.num_examples for s in test.sets.values())
    return Overlap("inputs up to symmetry", int(np.isin(in_test, in_train).sum()), total)


def _equivalent_solutions(train: Split, test: Split, box: BoxShape) -> Overlap:
    """Test labels that the legal symmetries turn into a train label; full solutions only, as for the puzzles."""
    in_train = _solution_hashes(train, box, first_examples(train))
    in_test = _solution_hashes(test, box)
    few = {4: ", of which only 2 exist", 6: ", of which only 49 exist"}.get(box.size, "")
    total = sum(s.num_examples for s in test.sets.values())
    return Overlap(f"outputs up to symmetry{few}", int(np.isin(in_test, in_train).sum()), total)


def _solution_hashes(
    split: Split, box: BoxShape, examples: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    hashes = []
    for _, labels in _rows(split, examples):
        solutions = to_values(labels)
        hashes.append(solution_hashes(solutions[is_solution(solutions, box)], box))
    return np.concatenate(hashes)


def first_examples(split: Split) -> dict[str, np.ndarray]:
    """The index of the first example of each group, by set: the puzzle that the others are copies of."""
    return {name: s.puzzle_indices[s.group_indices[:-1]] for name, s in split.sets.items()}


def _alike(
    split: Split, box: BoxShape, wanted: set[bytes], examples: dict[str, np.ndarray] | None = None
) -> tuple[set[bytes], np.ndarray]:
    """The wanted counts of givens that examples of the split have, and the hashes of these examples."""
    seen, hashes = set(), []
    for inputs, labels in _rows(split, examples):
        keys = _keys(_given_counts(inputs, box))
        seen |= wanted.intersection(keys)
        alike = np.array([key in wanted for key in keys], bool)
        puzzles, solutions = to_values(inputs[alike]), to_values(labels[alike])
        solved = is_solution(solutions, box)
        hashes.append(invariant_hashes(puzzles[solved], solutions[solved], box))
    return seen, np.concatenate(hashes)


def _given_counts(inputs: np.ndarray, box: BoxShape) -> np.ndarray:
    """(E, 3N) uint8: sorted numbers of givens per row, column and box, which symmetries leave as they are."""
    members = np.zeros(
        (box.num_cells, 3 * box.size), np.float32
    )  # a float product is the fastest way to count
    members[units(box).T, np.arange(3 * box.size)] = 1
    counts = ((inputs > _BLANK_TOKEN).astype(np.float32) @ members).astype(np.uint8)
    rows, columns, boxes = np.sort(counts.reshape(len(inputs), 3, box.size)).swapaxes(0, 1)
    if box.square:  # a transposition exchanges rows and columns
        rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
    return np.concatenate([rows, columns, boxes], axis=1)


def unshifted(rows: np.ndarray) -> np.ndarray:
    """ARC rows (E, S) with their grid moved to the top left corner and without its border."""
    rows = np.where(rows > 1, rows, 0).astype(np.uint8)
    first = (rows > 0).argmax(1)  # a grid's first cell is a colour
    moved = np.flatnonzero(first)
    count, length = rows.shape
    padded = np.zeros(count * length + length, np.uint8)
    padded[: rows.size] = rows.reshape(-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[moved * length + first[moved]]
    # What a window shows beyond its own row belongs to the next one.
    windows *= np.arange(length, dtype=np.int16) < (length - first[moved, None]).astype(np.int16)
    rows[moved] = windows
    return rows


def _unchanged(rows: np.ndarray) -> np.ndarray:
    return rows


def _rows(
    split: Split, examples: dict[str, np.ndarray] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and labels of all sets, or of the given examples of each, in pieces."""
    step = max(1, _CHUNK_CELLS // split.metadata.seq_len)
    for name, example_set in split.sets.items():
        count = example_set.num_examples if examples is None else len(examples[name])
        for start in range(0, count, step):
            part = slice(start, start + step)
            yield example_set.read(part if examples is None else examples[name][part])


def _keys(rows: np.ndarray) -> list[bytes]:
    """The bytes of each row."""
    rows = np.ascontiguousarray(rows, np.uint8)
    return rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1).tolist()
