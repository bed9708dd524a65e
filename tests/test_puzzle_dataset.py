"""The stream of batches: seeds, ranks, resuming, padding, and user errors."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
import torch
from numbered_datasets import RAGGED, SEQ_LEN, as_lists, build, build_ragged, random_groups, train

from dataset.format import ExampleSet, Metadata, open_split
from dataset.training_order import TrainingOrder
from puzzle_dataset import PuzzleDataset, with_ignored
from utils.errors import UserError


@pytest.fixture
def ragged(tmp_path):
    return build_ragged(tmp_path)


# ------------------------------------------------------------------------------------------ training order


def published_puzzles(groups, seed, iteration, epochs, batch_size):
    """Draw the puzzles of each batch one by one, following the published description."""
    lengths = [length for group in groups for length in group]
    group_starts = np.cumsum([0] + [len(group) for group in groups])
    rng = np.random.Generator(np.random.Philox(seed=seed + iteration))
    order = [group for _ in range(epochs) for group in rng.permutation(len(groups))]
    batches, batch = [], []
    for group in order:
        puzzle = rng.integers(group_starts[group], group_starts[group + 1])
        batch += [int(puzzle)] * min(lengths[puzzle], batch_size - len(batch))
        if len(batch) == batch_size:
            batches.append(batch)
            batch = []
    return batches


@pytest.mark.parametrize("at_once", [1, 7, 1 << 18])
@pytest.mark.parametrize("groups", [random_groups(), [[1] * 4] * 9, [[2, 3, 1]] * 6, [[1]] * 5, [[25]]])
def test_puzzles_follow_the_published_draws_for_any_chunk_size(monkeypatch, groups, at_once):
    monkeypatch.setattr("dataset.training_order._DRAWS_AT_ONCE", at_once)
    puzzle_starts = np.cumsum([0] + [length for group in groups for length in group])
    group_starts = np.cumsum([0] + [len(group) for group in groups])
    order = TrainingOrder(group_starts, puzzle_starts, 8, seed=3, epochs_per_iter=11)
    for iteration in (1, 2):
        expected = published_puzzles(groups, 3, iteration, 11, 8)
        assert [puzzles.tolist() for puzzles, _ in order.batches(iteration)] == expected
        assert order.num_batches(iteration) == len(expected)


def test_examples_of_a_puzzle_are_all_taken_or_sampled_without_replacement():
    puzzle_starts = np.cumsum([0, 3, 5, 1, 20, 4])
    order = TrainingOrder(np.arange(6), puzzle_starts, 16, seed=0, epochs_per_iter=200)
    cut_short = 0
    for puzzles, examples in order.batches(1):
        assert len(puzzles) == len(examples) == 16
        for puzzle, rows in itertools.groupby(range(16), key=lambda row: puzzles[row]):
            rows = list(rows)
            first, length = puzzle_starts[puzzle], puzzle_starts[puzzle + 1] - puzzle_starts[puzzle]
            for draw in range(0, len(rows), length):  # a puzzle may be drawn twice in a row
                chosen = {int(examples[row]) for row in rows[draw : draw + length]}
                assert len(chosen) == len(rows[draw : draw + length])
                assert chosen <= set(range(first, first + length))
                cut_short += len(chosen) < length
                assert len(chosen) == length or rows[draw : draw + length][-1] == 15
    assert cut_short > 50


def test_adjacent_seeds_have_the_same_orders_shifted_by_one_iteration_as_published():
    """docs/guides/training.md recommends seeds that differ by more than the number of iterations of a run."""
    starts = np.arange(41)

    def drawn(seed: int, iteration: int) -> list[int]:
        order = TrainingOrder(starts, starts, 8, seed=seed, epochs_per_iter=2)
        return [int(puzzle) for puzzles, _ in order.batches(iteration) for puzzle in puzzles]

    assert drawn(0, 3) == drawn(1, 2) == drawn(2, 1)
    assert drawn(0, 3) != drawn(0, 2)
    assert all(drawn(0, early) != drawn(1000, late) for early in (1, 2, 3) for late in (1, 2, 3))


def test_every_example_of_a_puzzle_is_equally_likely_at_every_position():
    order = TrainingOrder(np.arange(2), np.array([0, 5]), 3, seed=1, epochs_per_iter=6000)
    seen = np.stack([examples for _, examples in order.batches(1)])  # (6000, 3) of 5 examples
    counts = np.stack([np.bincount(column, minlength=5) for column in seen.T])
    assert np.abs(counts - 1200).max() < 5 * np.sqrt(1200 * 0.8)
    whole = TrainingOrder(np.arange(2), np.array([0, 5]), 6, seed=1, epochs_per_iter=6000)
    first = np.bincount([examples[0] for _, examples in whole.batches(1)], minlength=5)
    assert np.abs(first - 600).max() < 5 * np.sqrt(600 * 0.8)


def test_seed_iteration_and_batch_determine_the_examples_of_a_puzzle():
    def chosen(seed: int, iteration: int) -> list[list[int]]:
        order = TrainingOrder(np.arange(2), np.array([0, 100]), 8, seed=seed, epochs_per_iter=2)
        return [examples.tolist() for _, examples in order.batches(iteration)]

    found = [tuple(batch) for seed in (0, 1) for iteration in (1, 2) for batch in chosen(seed, iteration)]
    assert len(found) == len(set(found)) == 8


def test_twenty_million_draws_need_little_memory():
    order = TrainingOrder(np.arange(1001) * 50, np.arange(50_001), 768, seed=0, epochs_per_iter=20_000)
    tracemalloc.start()
    assert order.num_batches(1) == 20_000 * 1000 // 768
    batches = order.batches(1)
    for _ in range(400):  # beyond the first piece
        next(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


# ------------------------------------------------------------------------------------------ training stream


def test_rows_carry_the_inputs_labels_and_identifier_of_one_example(ragged):
    stored = open_split(ragged, "train").sets["all"]
    row_of = {tuple(row): i for i, row in enumerate(stored.inputs.tolist())}
    for name, batch, count in train(ragged):
        assert (name, count) == ("all", 8)
        assert {key: (tuple(t.shape), t.dtype) for key, t in batch.items()} == {
            "inputs": ((8, SEQ_LEN), torch.int32),
            "labels": ((8, SEQ_LEN), torch.int32),
            "puzzle_identifiers": ((8,), torch.int32),
        }
        rows = np.array([row_of[tuple(row)] for row in batch["inputs"].tolist()])
        labels = stored.labels[rows].astype(int)
        assert batch["labels"].tolist() == np.where(labels == 0, -100, labels).tolist()
        identifiers = stored.puzzle_identifiers[stored.puzzles_of(rows)]
        assert batch["puzzle_identifiers"].tolist() == identifiers.tolist()


def test_batches_are_reproducible_by_seed_and_iteration(ragged):
    first = as_lists(train(ragged, seed=4).batches(1))
    assert as_lists(train(ragged, seed=4).batches(1)) == first
    assert as_lists(train(ragged, seed=5).batches(1)) != first
    assert as_lists(train(ragged, seed=4).batches(2)) != first


def test_each_pass_is_another_iteration(ragged):
    dataset = train(ragged)
    for iteration in (1, 2, 3):
        assert as_lists(dataset) == as_lists(train(ragged).batches(iteration))


def test_the_order_does_not_use_the_global_generator_of_numpy(ragged):
    np.random.seed(0)  # noqa: NPY002 - that is the point
    first = as_lists(train(ragged))
    np.random.seed(1)  # noqa: NPY002
    assert as_lists(train(ragged)) == first


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_slices_of_the_same_global_batch(tmp_path, split, ranks):
    path = build(tmp_path / "d", random_groups(3), split=split)
    options = {"global_batch_size": 8, "epochs_per_iter": 5}
    alone = list(PuzzleDataset([path], split, **options))
    shared = [list(PuzzleDataset([path], split, **options, rank=r, world_size=ranks)) for r in range(ranks)]
    assert {len(batches) for batches in shared} == {len(alone)}
    for (name, whole, count), *parts in zip(alone, *shared, strict=True):
        assert {(part_name, part_count) for part_name, _, part_count in parts} == {(name, count)}
        for key, tensor in whole.items():
            assert torch.equal(torch.cat([batch[key] for _, batch, _ in parts]), tensor)


@pytest.mark.parametrize("split", ["train", "test"])
def test_resuming_at_any_batch_equals_the_uninterrupted_stream(tmp_path, split):
    paths = [
        build(tmp_path / "a", random_groups(1), split=split),
        build(tmp_path / "b", random_groups(2), split=split, first_identifier=100),
    ]
    dataset = PuzzleDataset(paths, split, global_batch_size=8, epochs_per_iter=3)
    whole = as_lists(dataset.batches(2))
    assert len(whole) == dataset.num_batches(2) > 5
    for start in range(len(whole) + 2):
        assert as_lists(dataset.batches(2, start)) == whole[start:]


@pytest.mark.parametrize("split", ["train", "test"])
def test_skipped_batches_are_not_read(tmp_path, split, monkeypatch):
    path = build(tmp_path / "d", random_groups(), split=split)
    dataset = PuzzleDataset([path], split, global_batch_size=8, epochs_per_iter=5)
    reads = []
    read = ExampleSet.read
    monkeypatch.setattr(ExampleSet, "read", lambda self, rows: reads.append(len(rows)) or read(self, rows))
    assert len(list(dataset.batches(1, dataset.num_batches(1) - 2))) == 2
    assert len(reads) == 2


def test_a_rank_reads_only_its_own_rows(ragged, monkeypatch):
    dataset = train(ragged, rank=1, world_size=4)
    reads = []
    read = ExampleSet.read
    monkeypatch.setattr(ExampleSet, "read", lambda self, rows: reads.append(len(rows)) or read(self, rows))
    assert len(list(dataset)) == len(reads)
    assert set(reads) == {2}


def test_num_batches_is_the_length_of_the_stream(ragged, tmp_path):
    for dataset in (train(ragged), train(build(tmp_path / "flat", [[2, 2]] * 7), batch=3)):
        for iteration in (1, 2, 3):
            assert dataset.num_batches(iteration) == len(list(dataset.batches(iteration)))


# ------------------------------------------------------------------------------------------ evaluation stream


def test_evaluation_yields_every_example_once_in_file_order_and_pads_the_last_batch(tmp_path):
    path = build(
        tmp_path / "d",
        RAGGED[0],
        split="test",
        pad_id=2,
        blank_identifier_id=3,
        ignore_label_id=1,
        first_token=70,
    )
    stored = open_split(path, "test").sets["all"]
    dataset = PuzzleDataset([path], "test", global_batch_size=5)
    names, batches, counts = zip(*dataset, strict=True)
    assert names == ("all",) * 3
    assert counts == (5, 5, 3)
    assert dataset.num_batches() == 3
    inputs = torch.cat([batch["inputs"] for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    assert inputs[:13].tolist() == stored.inputs.tolist()
    assert labels[:13].tolist() == np.where(stored.labels == 1, -100, stored.labels.astype(int)).tolist()
    assert (labels[:13, :2] == -100).all()
    identifiers = torch.cat([batch["puzzle_identifiers"] for batch in batches])
    assert identifiers.tolist() == [*np.repeat([1, 2, 3, 4, 5], [3, 1, 2, 2, 5]), 3, 3]
    assert inputs[13:].unique().tolist() == [2]
    assert labels[13:].unique().tolist() == [-100]
    assert as_lists(dataset) == as_lists(dataset), "a second pass is the same"


def test_a_rank_without_rows_of_the_last_batch_gets_padding(tmp_path):
    path = build(tmp_path / "d", [[9]], split="test")
    ranks = [list(PuzzleDataset([path], "test", global_batch_size=4, rank=r, world_size=4)) for r in range(4)]
    assert [len(batches) for batches in ranks] == [3] * 4
    for rank, batches in enumerate(ranks):
        name, batch, count = batches[-1]
        assert (name, count) == ("all", 1)
        assert batch["inputs"].shape == (1, SEQ_LEN)
        assert (batch["labels"] == -100).all() == (rank > 0)


def test_without_an_ignored_label_no_label_is_masked(tmp_path):
    path = build(tmp_path / "d", [[4]], split="test", ignore_label_id=None)
    [(_, batch, _)] = PuzzleDataset([path], "test", global_batch_size=4)
    assert batch["labels"][:, :2].tolist() == [[0, 0]] * 4


def test_labels_stored_as_minus_100_stay_ignored(tmp_path):
    path = build(tmp_path / "d", [[4]])
    labels = tmp_path / "d" / "train" / "all__labels.npy"
    np.save(labels, np.where(np.load(labels) == 0, -100, np.load(labels).astype(np.int64)))
    meta = tmp_path / "d" / "train" / "dataset.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "ignore_label_id": -100}))
    [(_, batch, _)] = train(path, batch=4, epochs_per_iter=1)
    assert (batch["labels"] == -100).tolist() == [[True, True] + [False] * (SEQ_LEN - 2)] * 4


def test_the_train_split_can_be_evaluated_in_file_order(ragged):
    dataset = PuzzleDataset([ragged], "train", global_batch_size=4, shuffle=False)
    rows = torch.cat([batch["inputs"][:count] for _, batch, count in dataset])
    assert rows.tolist() == open_split(ragged, "train").sets["all"].inputs.tolist()


# ------------------------------------------------------------------------------------------ what users get wrong


def test_a_batch_that_processes_cannot_divide_is_rejected(ragged):
    with pytest.raises(
        UserError, match=r"global_batch_size is 10.* multiple of the number of processes, which is 4"
    ):
        train(ragged, batch=10, world_size=4)
    with pytest.raises(UserError, match="global_batch_size is 0"):
        train(ragged, batch=0)


@pytest.mark.parametrize("groups", [[[2, 3], [4]], [[1, 1], [1]]])
def test_an_iteration_that_fills_no_batch_is_rejected_with_a_suggestion(tmp_path, groups):
    path = build(tmp_path / "d", groups)
    most = 3 * sum(max(group) for group in groups)
    assert train(path, batch=3 * sum(min(group) for group in groups), epochs_per_iter=3).num_batches(1) >= 1
    with pytest.raises(UserError) as caught:
        train(path, batch=most + 1, epochs_per_iter=3)
    assert all(
        part in str(caught.value)
        for part in (
            f"at most {most} examples",
            f"global_batch_size is {most + 1}",
            "smaller",
            "larger eval_interval",
        )
    )


def test_empty_repeated_and_missing_directories_are_rejected(ragged, tmp_path):
    with pytest.raises(UserError, match="data_paths is empty"):
        train()
    with pytest.raises(UserError, match="given twice"):
        train(ragged, ragged + "/")
    with pytest.raises(UserError, match="no such dataset"):
        train(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no split 'test'"):
        PuzzleDataset([ragged], "test", global_batch_size=2)
    with pytest.raises(UserError, match="0 epochs"):
        train(ragged, epochs_per_iter=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize(
    ("vocab_size", "ignored"), [(12, 0), (12, 3), (128, 0), (128, 255), (129, 0), (256, 255), (12, None)]
)
def test_ignored_labels_become_minus_100_and_others_stay(dtype, vocab_size, ignored):
    counts = {"num_puzzle_identifiers": 1, "total_groups": 1, "mean_puzzle_examples": 1.0, "total_puzzles": 1}
    sizes = {"seq_len": 4, "vocab_size": vocab_size, "pad_id": 0, "blank_identifier_id": 0, "sets": ("all",)}
    described = Metadata(ignore_label_id=ignored, **sizes, **counts)
    tokens = sorted({*range(vocab_size), ignored or 0})
    labels = np.array([tokens, tokens[::-1]], dtype)
    found = np.empty(labels.shape, np.int32)
    found[:] = with_ignored(labels, described)
    assert found.tolist() == [[-100 if t == ignored else t for t in row] for row in labels.tolist()]
    assert labels.tolist() == [tokens, tokens[::-1]]  # not changed
