"""The lazy store: equal to the full store and to rendering one example at a time; errors in its files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from arc_samples import build

from dataset.augment import dihedral
from dataset.families.arc.grids import GRID_SIZE, SEQ_LEN, encode, split_name
from dataset.families.arc.lazy import IdentifierTable, LazyExampleSet, Originals
from dataset.families.arc.render import Frames, unpack
from dataset.format import open_split, read_identifiers, validate
from puzzle_dataset import PuzzleDataset, identifier_hashes
from utils.errors import UserError


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    options = ("--num-aug", "40", "--test-set-name2", "concept")
    return tuple(build(folder / store, "--store", store, *options) for store in ("full", "lazy"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_lazy_set_equals_the_full_one_exactly(stores, split):
    full, lazy = (open_split(folder, split) for folder in stores)
    assert isinstance(lazy.sets["all"], LazyExampleSet)
    written, rendered = full.sets["all"], lazy.sets["all"]
    count = written.num_examples
    assert (rendered.num_examples, rendered.num_groups) == (count, written.num_groups)
    for field in ("puzzle_identifiers", "puzzle_indices", "group_indices"):
        assert np.array_equal(getattr(written, field), getattr(rendered, field))
        assert getattr(written, field).dtype == getattr(rendered, field).dtype
    rng = np.random.default_rng(0)
    for rows in (np.arange(count), rng.permutation(count), rng.integers(0, count, 7), np.arange(0)):
        for one, other in zip(written.read(rows), rendered.read(rows), strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
    known, lazy_json = full.metadata.to_json(), lazy.metadata.to_json()
    assert lazy_json.pop("store") == "lazy"
    assert lazy_json.pop("options") | {"store": "full"} == known.pop("options")
    assert lazy_json == known


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_lazy_dataset_yields_the_same_batches(stores, split):
    options = {"epochs_per_iter": 30, "seed": 3} if split == "train" else {}
    streams = [PuzzleDataset([str(folder)], split, global_batch_size=16, **options) for folder in stores]
    count = 0
    for (name, batch, size), (lazy_name, lazy_batch, lazy_size) in zip(*streams, strict=True):
        assert (name, size) == (lazy_name, lazy_size)
        for key in batch:
            assert batch[key].dtype == lazy_batch[key].dtype
            assert bool((batch[key] == lazy_batch[key]).all())
        count += 1
    assert count > 5


def test_identifiers_and_test_tasks_are_the_same_and_a_lazy_dataset_is_small(stores):
    full, lazy = stores
    assert read_identifiers(lazy) == read_identifiers(full)
    assert not (lazy / "identifiers.json").exists()
    assert (lazy / "test_puzzles.json").read_bytes() == (full / "test_puzzles.json").read_bytes()
    assert validate(lazy) == []
    sizes = [sum(path.stat().st_size for path in folder.rglob("*")) for folder in stores]
    assert sizes[1] * 20 < sizes[0]


def test_each_rendered_row_is_the_encoding_of_its_augmented_pair(stores):
    _, lazy = stores
    names = read_identifiers(lazy)
    for split in ("train", "test"):
        examples = open_split(lazy, split).sets["all"]
        groups = Originals.load(lazy / split, "all").groups
        group_of = np.searchsorted(examples.group_indices, np.arange(examples.num_puzzles), side="right") - 1
        for puzzle, identifier in enumerate(examples.puzzle_identifiers):
            rows = np.arange(*examples.puzzle_indices[puzzle : puzzle + 2])
            _, augmentation = split_name(names[identifier])
            for pair, *sequences in zip(groups[group_of[puzzle]], *examples.read(rows), strict=True):
                top = np.argwhere(sequences[0].reshape(GRID_SIZE, GRID_SIZE) >= 2).min(0)
                for grid, sequence in zip(pair, sequences, strict=True):
                    assert np.array_equal(encode(augmentation.apply(grid), *top), sequence)


def test_frames_under_every_transform_and_possible_shift_are_encodings():
    rng = np.random.default_rng(1)
    shapes = [
        ((3, 5), (4, 2)),
        ((30, 2), (1, 30)),
        ((30, 30), (2, 2)),
        ((29, 28), (28, 29)),
        ((1, 1), (1, 1)),
    ]
    pairs = [tuple(rng.integers(0, 10, shape, np.uint8) for shape in both) for both in shapes]
    frames = Frames(pairs)
    for number, pair in enumerate(pairs):
        for transform in range(8):
            rows, columns = frames.room(np.array([number]), np.array([transform]))[0].tolist()
            shifts = np.array([(r, c) for r in {0, 1, rows - 1, rows} for c in {0, 1, columns - 1, columns}])
            shifts = shifts[(shifts >= 0).all(1) & (shifts <= [rows, columns]).all(1)]
            numbers, transforms = np.full(len(shifts), number), np.full(len(shifts), transform)
            packed = frames.rows(numbers, transforms, shifts, 0 * numbers, [bytes(range(256))])
            for shift, *sequences in zip(shifts, *unpack(packed), strict=True):
                for grid, sequence in zip(pair, sequences, strict=True):
                    assert np.array_equal(sequence, encode(dihedral(grid, transform), *shift)), (
                        transform,
                        shift,
                    )


def test_shifts_are_uniformly_distributed(tmp_path):
    tasks = {
        "t": {"train": [{"input": [[1, 2, 3] * 9] * 28, "output": [[4]]}] * 2, "test": [{"input": [[3]]}]}
    }
    (tmp_path / "own_evaluation_challenges.json").write_text(json.dumps(tasks))
    folder = build(
        tmp_path / "d", "--store", "lazy", "--num-aug", "4000", subsets="evaluation", prefix=tmp_path / "own"
    )
    examples = open_split(folder, "train").sets["all"]
    inputs, _ = examples.read(np.arange(examples.num_examples))
    places, unshifted = {False: [], True: []}, 0
    for row in inputs:
        colours = np.argwhere(row.reshape(30, 30) >= 2)
        top, left = colours.min(0)
        height = colours.max(0)[0] - top + 1
        places[bool(height == 27)].append((int(top), int(left)))
        unshifted += (top, left) == (0, 0)
    # One of two examples stays, the other is shifted uniformly to 12 positions.
    assert unshifted / len(inputs) == pytest.approx(0.5 + 0.5 / 12, abs=0.03)
    for turned, shape in ((False, (3, 4)), (True, (4, 3))):
        counts = Counter(place for place in places[turned] if place != (0, 0))
        assert set(counts) | {(0, 0)} == set(np.ndindex(shape))
        assert min(counts.values()) > 0.6 * max(counts.values())


# ------------------------------------------------------------------------------------------ broken files


@pytest.fixture
def lazy(tmp_path) -> Path:
    return build(tmp_path / "lazy", "--store", "lazy")


def replace_array(path: Path, key: str, change) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays[key] = change(arrays[key])
    np.savez(path, **arrays)


def test_missing_and_truncated_files_are_named(lazy):
    for name in ("identifiers.npz", "train/all__originals.npz"):
        path = lazy / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=f"{Path(name).name}: is missing"):
            open_split(lazy, "train")
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"{Path(name).name}: is truncated"):
            open_split(lazy, "train")
        assert validate(lazy)
        path.write_bytes(content)
    assert validate(lazy) == []


@pytest.mark.parametrize(
    ("file", "key", "change", "message"),
    [
        ("identifiers.npz", "numbers", lambda a: a + 8 * 362880, "augmentation .* is not in 0..2903039"),
        ("identifiers.npz", "numbers", lambda a: a.astype(np.int64) - 2**40, "augmentation -.* is not in 0"),
        ("identifiers.npz", "lengths", lambda a: a[1:], "do not agree"),
        ("identifiers.npz", "start", lambda a: a - 2**31, r"start is \[-2147483647\], but must be one"),
        ("identifiers.npz", "start", lambda a: a[:0], r"start is \[\], but must be one identifier"),
        ("train/all__originals.npz", "cells", lambda a: a.astype(int) - 1, "colours 0..9"),
        ("train/all__originals.npz", "shift_seed", lambda a: np.array([-1]), "shift_seed is -1"),
        ("train/all__originals.npz", "cells", lambda a: a + 10, "colours 0..9"),
        ("train/all__originals.npz", "cells", lambda a: a[1:], "do not agree"),
        ("train/all__originals.npz", "cells", lambda a: a.astype(float), "lacks the array 'cells'"),
        ("train/all__originals.npz", "pairs", lambda a: a * 0, "at least one pair"),
        ("train/all__originals.npz", "copies", lambda a: a + 1, "numbers of copies and of identifiers"),
        ("train/all__originals.npz", "identifier_steps", lambda a: a * 0, "puzzle 0 has identifier 0"),
        ("train/all__originals.npz", "identifier_steps", lambda a: a + 1, "puzzle .* has identifier"),
    ],
)
def test_invalid_values_are_reported(lazy, file, key, change, message):
    replace_array(lazy / file, key, change)
    with pytest.raises(UserError, match=message) as error:
        open_split(lazy, "train")
    assert Path(file).name in str(error.value)


def test_cells_of_other_integer_types_are_accepted(lazy):
    before = open_split(lazy, "train").sets["all"].read(slice(0, 20))
    replace_array(lazy / "train/all__originals.npz", "cells", lambda a: a.astype(np.int64))
    after = open_split(lazy, "train").sets["all"].read(slice(0, 20))
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other)


def test_counts_in_dataset_json_are_checked_against_the_store(lazy):
    path = lazy / "train" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_groups": 3}))
    with pytest.raises(UserError, match="total_groups is 3"):
        open_split(lazy, "train")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seq_len": 82}))
    with pytest.raises(UserError, match=rf"has {SEQ_LEN} \(or a smaller square number\) and 12"):
        open_split(lazy, "train")


def test_an_identifier_table_can_be_saved_and_loaded(tmp_path):
    table = IdentifierTable(4, ["a", "b"], np.array([2, 1]), np.array([0, 362880 * 3, 0], np.uint32))
    table.save(tmp_path)
    loaded = IdentifierTable.load(tmp_path)
    assert list(loaded.names()) == ["<blank>"] * 4 + ["a", "a|||t3|||0123456789", "b"]
    assert len(loaded) == 7


def test_lazy_datasets_with_other_augmentations_have_other_identifiers(stores, tmp_path):
    full, lazy = stores
    options = ("--num-aug", "40", "--test-set-name2", "concept", "--store", "lazy")
    others = [build(tmp_path / seed, *options, "--seed", seed) for seed in ("42", "7")]
    of_full, of_lazy, same_seed, other_seed = identifier_hashes(map(str, (full, lazy, *others)))
    assert of_full == of_lazy == same_seed
    assert other_seed != of_lazy
