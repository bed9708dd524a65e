"""Choose the tasks, augmented copies and identifiers of an ARC dataset, before its examples are rendered."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataset.augment import NUM_DIHEDRAL
from dataset.families.arc.grids import NUM_AUGMENTATIONS, NUM_COLOURS, SEQ_LEN, decode_numbers, frame_layout
from dataset.families.arc.lazy import IdentifierTable
from dataset.families.arc.tasks import Pair, Task, check_same_task, read_subset
from utils.errors import UserError

_TRIES = 5  # maximum number of random augmentations to try per requested copy
_ORDER_STREAM, _AUGMENTATION_STREAM = 0, 1  # independent random generators of one seed


@dataclass(frozen=True)
class Group:
    """A task and its copies: augmentation numbers and identifiers, (copies,) each, starting with the task itself."""

    task: Task
    in_test: bool
    numbers: np.ndarray
    identifiers: np.ndarray

    def pairs(self, split: str) -> list[Pair]:
        """Return the pairs of one copy in a split; unknown answers are empty grids."""
        if split == "test":
            return self.task.labelled_test if self.in_test else []
        return self.task.train + ([] if self.in_test else self.task.labelled_test)


@dataclass(frozen=True)
class DatasetPlan:
    """The groups and the identifier table of a dataset."""

    groups: list[Group]
    table: IdentifierTable

    def in_split(self, split: str) -> list[Group]:
        return [group for group in self.groups if group.pairs(split)]


def plan_dataset(options: argparse.Namespace) -> tuple[DatasetPlan, list[str]]:
    """Read the tasks, shuffle them within each subset, and choose augmentations; also return notes for the user.

    The result is a function of the files and the options. Raises `UserError` for malformed files.
    """
    tasks: list[tuple[Task, bool]] = []
    subsets_of: dict[str, list[str]] = {}
    first_of: dict[str, tuple[Task, str]] = {}
    test_names = {options.test_set_name, options.test_set_name2}
    notes = []
    for position, subset in enumerate(options.subsets):
        found = read_subset(options.input_file_prefix, subset)
        read = [task for task in found if task.largest <= options.max_grid]
        if len(read) < len(found):
            notes.append(
                f"{len(read):,} of {len(found):,} tasks of {subset} have no grid larger than {options.max_grid} x "
                f"{options.max_grid}; the others are left out"
            )
        order = _generator(options.seed, _ORDER_STREAM, position).permutation(len(read))
        tasks += [(read[index], subset in test_names) for index in order]
        for task in read:
            subsets_of.setdefault(task.name, []).append(subset)
            known, known_subset = first_of.setdefault(task.name, (task, subset))
            check_same_task(known, known_subset, task, subset)
        unsolved = sum(bool(task.unknown) for task in read)
        if unsolved:
            use = (
                "are submitted, but not scored"
                if subset in test_names
                else "are in train with ignored labels"
            )
            inputs = sum(len(task.unknown) for task in read)
            notes.append(f"{unsolved} tasks of {subset} lack answers to {inputs} test inputs, which {use}")
    if not any(in_test for _, in_test in tasks):
        tested = " and ".join(name for name in options.subsets if name in test_names)
        raise UserError(
            f"--max-grid {options.max_grid} leaves out every task of {tested}, so that there is no test split: raise it"
        )
    notes += _repetition_notes(subsets_of, test_names)

    # Identifiers are numbered in order of first use; augmentations of a task that occurs in two subsets share them.
    repeated: dict[str, dict[int, int]] = {
        name: {} for name, subsets in subsets_of.items() if len(subsets) > 1
    }
    next_identifier = options.puzzle_identifiers_start
    groups, new_numbers = [], []
    for position, (task, in_test) in enumerate(tasks):
        generator = _generator(options.seed, _AUGMENTATION_STREAM, position)
        numbers = choose_augmentations(task.train + task.test, options.num_aug, generator)
        identifier_of = repeated.get(task.name)
        if identifier_of is None:
            identifiers = np.arange(next_identifier, next_identifier + len(numbers))
            new = numbers
        else:
            new = np.array([n for n in numbers.tolist() if n not in identifier_of], np.uint32)
            new_identifiers = range(next_identifier, next_identifier + len(new))
            identifier_of.update(zip(new.tolist(), new_identifiers, strict=True))
            identifiers = np.array([identifier_of[number] for number in numbers.tolist()])
        next_identifier += len(new)
        new_numbers.append(new)
        groups.append(Group(task, in_test, numbers, identifiers.astype(np.int32)))
    table = IdentifierTable(
        options.puzzle_identifiers_start,
        [task.name for task, _ in tasks],
        np.array([len(numbers) for numbers in new_numbers]),
        np.concatenate(new_numbers),
    )
    return DatasetPlan(groups, table), notes


def _repetition_notes(subsets_of: dict[str, list[str]], test_names: set[str]) -> Iterator[str]:
    """Yield a line for each combination of subsets that share tasks."""
    for subsets, count in Counter(tuple(s) for s in subsets_of.values() if len(s) > 1).items():
        among_tests = sum(subset in test_names for subset in subsets)
        effect = "their copies are in train twice"
        if among_tests == len(subsets):
            effect = f"test_puzzles.json has the version of {subsets[-1]}"
        elif among_tests:
            effect = "their TEST PAIRS ARE IN TRAIN, so scores on them are meaningless"
        yield f"{count} tasks are in {' and '.join(subsets)}: {effect}"


def choose_augmentations(pairs: list[Pair], count: int, generator: np.random.Generator) -> np.ndarray:
    """Choose up to `count` augmentations with pairwise different results; return their numbers (1 + copies,) uint32.

    Number 0, the task itself, comes first. There are fewer copies if 5 * count tries yield no more.
    """
    numbers = np.concatenate([[0], generator.integers(0, NUM_AUGMENTATIONS, _TRIES * count)])
    fingerprints = _Fingerprints(pairs)
    for tries in (count + count // 8 + 8, _TRIES * count):  # usually there are few duplicates
        _, firsts = np.unique(fingerprints(numbers[: 1 + tries]), return_index=True)
        if len(firsts) > count:
            break
    return numbers[np.sort(firsts)[: 1 + count]].astype(np.uint32)


class _Fingerprints:
    """64-bit fingerprints that are equal iff `dataset.families.arc.grids.puzzle_hash` of the augmented pairs is.

    The fingerprint of a pair is Σ weight(cell) · (1 + colour) mod 2^64 with random weights. Given the sums of weights
    per colour for the 8 transforms, it takes ten products for any colour permutation, a thousand times faster than
    hashing the cells. Different puzzles collide with a probability below 2^-60.
    """

    def __init__(self, pairs: list[Pair]) -> None:
        generator = np.random.Generator(np.random.Philox(0))
        weights = generator.integers(0, 2**64, (2, SEQ_LEN), np.uint64)
        # Sums of weights per transform, pair and colour.
        self._sums = np.zeros((NUM_DIHEDRAL, len(pairs), NUM_COLOURS), np.uint64)
        for number, pair in enumerate(pairs):
            for side, grid in enumerate(pair):
                of_cells = weights[side][frame_layout(*grid.shape)[0]]
                order = np.argsort(grid, axis=None)
                colours, starts = np.unique(grid.ravel()[order], return_index=True)
                self._sums[:, number, colours] += np.add.reduceat(of_cells[:, order], starts, axis=1)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return fingerprints (N,) uint64 of the puzzle with augmentation numbers (N,)."""
        transforms, colours = decode_numbers(numbers)
        sums = (self._sums[transforms] * (colours + np.uint64(1))[:, None]).sum(-1)
        # Mix, so that the sum over pairs is not linear in the colours.
        sums = (sums ^ (sums >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        return (sums ^ (sums >> np.uint64(29))).sum(-1)


def _generator(seed: int, stream: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([seed, stream, position]))
