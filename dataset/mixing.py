"""Combine several datasets, or several sets of one: what must agree, and how examples are renumbered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.families import family_of, merged_finding
from dataset.families.base import Augmentation
from dataset.format import AGREEING_KEYS, ExampleSet, Metadata, Split, read_identifiers
from dataset.online_augment import augmentation_of
from utils.errors import UserError


class MixedSets:
    """Several sets used as one: examples, puzzles and groups are numbered consecutively in the given order."""

    def __init__(self, sets: list[ExampleSet]):
        self._sets = sets
        self._first_example = np.cumsum([0] + [s.num_examples for s in sets])
        self.puzzle_identifiers = np.concatenate([s.puzzle_identifiers for s in sets])
        self.puzzle_starts = _joined_indices([s.puzzle_indices for s in sets])
        self.group_starts = _joined_indices([s.group_indices for s in sets])

    def read(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read inputs and labels, each (n, S), as stored."""
        if len(self._sets) == 1:
            return self._sets[0].read(examples)
        owners = np.searchsorted(self._first_example, examples, side="right") - 1
        inputs = labels = None
        for owner in np.unique(owners):
            rows = np.flatnonzero(owners == owner)
            some = self._sets[owner].read(examples[rows] - self._first_example[owner])
            if inputs is None:
                inputs, labels = (np.empty((len(examples), array.shape[1]), array.dtype) for array in some)
            inputs[rows], labels[rows] = some
        return inputs, labels


def _joined_indices(indices: list[np.ndarray]) -> np.ndarray:
    """Concatenate index arrays, each offset by the end of the previous one."""
    ends = np.cumsum([0] + [int(array[-1]) for array in indices])
    parts = [array[1:].astype(np.int64) + end for array, end in zip(indices, ends, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *parts])


def merge_metadata(described: Sequence[tuple[str, Metadata]]) -> Metadata:
    """Merge the metadata of several (directory, metadata): counts are summed, the identifier count is the maximum.

    `extra` keeps entries that are equal in all. Raises `UserError` naming key and directories if required keys differ.
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
        finding=merged_finding([(path, family_of(metadata).found) for path, metadata in described]),
    )


def named_sets(splits: list[tuple[str, Split]]) -> dict[str, ExampleSet]:
    """Return all sets by their name in metrics; with several directories, distinguishing path parts are prefixed."""
    parts = [Path(os.path.abspath(path)).parts for path, _ in splits]
    for i, path in enumerate(parts):
        if path in parts[:i]:
            raise UserError(f"{splits[i][0]}: is given twice; give every dataset folder once")
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    prefixes = ["/".join(path[-depth:]) + "/" if len(parts) > 1 else "" for path in parts]
    return {
        prefix + name: example_set
        for prefix, (_, opened) in zip(prefixes, splits, strict=True)
        for name, example_set in opened.sets.items()
    }


def check_distinct_identifiers(splits: list[tuple[str, Split]], *, allow_same_names: bool) -> None:
    """Raise `UserError` if two directories use the same identifier, other than the blank one.

    With `allow_same_names`, equal identifiers with equal names are allowed: in evaluation, two test sets may contain
    the same puzzle.
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
            if len(shared) and allow_same_names:
                names, others = (read_identifiers(splits[k][0]) for k in (i, j))
                shared = [s for s in shared if names[s : s + 1] != others[s : s + 1]]
            if len(shared):
                raise UserError(
                    f"puzzle identifier {shared[0]} ({len(shared)} in all) is used by both {splits[i][0]} and "
                    f"{splits[j][0]}: build one of them with another --puzzle-identifiers-start"
                )


def common_augmentation(splits: list[tuple[str, Split]]) -> Augmentation:
    """Return the augmentation shared by all datasets. Raises `UserError` if they differ or one has none."""
    (first_dir, first), *others = [(path, augmentation_of(opened.metadata, path)) for path, opened in splits]
    for (other_dir, other), (_, opened) in zip(others, splits[1:], strict=True):
        if other != first:
            kinds = [family_of(metadata) for metadata in (splits[0][1].metadata, opened.metadata)]
            one, another = (f"{family.name} {family.describe()}" for family in kinds)
            raise UserError(
                f"augment=online needs the same augmentation for all data, but {first_dir} is {one} and {other_dir} is "
                f"{another}: leave out augment, or train on one of them"
            )
    return first
