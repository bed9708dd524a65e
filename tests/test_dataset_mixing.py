"""Several datasets as one stream of batches: mixing, merged metadata, names and shared identifiers."""

import json

import numpy as np
import pytest
from numbered_datasets import RAGGED, SEQ_LEN, VOCAB, as_lists, build, train

from dataset.format import SplitWriter, write_identifiers
from dataset.mixing import merge_metadata
from puzzle_dataset import PuzzleDataset
from training_run import model_sizes
from utils.errors import UserError

# ------------------------------------------------------------------------------------------ several datasets


def test_mixed_datasets_equal_one_with_all_their_groups(tmp_path):
    one = build(tmp_path / "one", RAGGED[0] + RAGGED[1])
    first = sum(map(sum, RAGGED[0]))
    parts = [
        build(tmp_path / "a", RAGGED[0]),
        build(tmp_path / "b", RAGGED[1], first_identifier=6, first_token=1 + first),
    ]
    together = as_lists(train(*parts, seed=2))
    assert [batch for _, batch, _ in together] == [batch for _, batch, _ in as_lists(train(one, seed=2))]
    origins = [{identifier < 6 for identifier in batch["puzzle_identifiers"]} for _, batch, _ in together]
    assert {True, False} in origins, "batches hold rows of both"


def test_several_sets_of_a_directory_mix_in_training_but_not_in_evaluation(tmp_path):
    both = tmp_path / "both"
    for split in ("train", "test"):
        build(both, RAGGED[0], split=split)
        build(tmp_path / "more", RAGGED[1], split=split, first_identifier=6, first_token=40)
        for path in (tmp_path / "more" / split).glob("all__*"):
            path.rename(both / split / path.name.replace("all", "hard"))
        meta = json.loads((both / split / "dataset.json").read_text())
        counts = {
            "total_groups": 5,
            "total_puzzles": 10,
            "mean_puzzle_examples": 2.8,
            "num_puzzle_identifiers": 11,
        }
        (both / split / "dataset.json").write_text(json.dumps({**meta, **counts, "sets": ["all", "hard"]}))
    write_identifiers(both, ["<blank>", *map(str, range(1, 11))])
    parts = [build(tmp_path / "a", RAGGED[0]), str(tmp_path / "b")]
    build(tmp_path / "b", RAGGED[1], first_identifier=6, first_token=40)
    mixed = [batch for _, batch, _ in as_lists(train(str(both)))]
    assert mixed == [batch for _, batch, _ in as_lists(train(*parts))]
    dataset = PuzzleDataset([str(both)], "test", global_batch_size=10)
    assert [(name, count) for name, _, count in dataset] == [
        ("all", 10),
        ("all", 3),
        ("hard", 10),
        ("hard", 5),
    ]
    assert dataset.metadata.sets == ("all", "hard")


def test_test_sets_are_named_by_distinguishing_parts_of_their_directories(tmp_path):
    for name in ("x/easy", "x/hard", "y/hard"):
        build(tmp_path / name, [[2]], split="test", names="same")
    two = [str(tmp_path / "x" / "easy"), str(tmp_path / "y" / "hard") + "/"]
    assert PuzzleDataset(two, "test", global_batch_size=2).metadata.sets == ("easy/all", "hard/all")
    same_names = [str(tmp_path / "x" / "hard"), str(tmp_path / "y" / "hard")]
    assert [name for name, _, _ in PuzzleDataset(same_names, "test", global_batch_size=2)] == [
        "x/hard/all",
        "y/hard/all",
    ]


def test_merged_metadata_sums_counts_and_keeps_the_largest_table(tmp_path):
    paths = [build(tmp_path / "a", RAGGED[0]), build(tmp_path / "b", RAGGED[1], first_identifier=20)]
    metadata = train(*paths).metadata
    assert (metadata.total_groups, metadata.total_puzzles, metadata.num_puzzle_identifiers) == (5, 10, 25)
    assert metadata.mean_puzzle_examples == pytest.approx(28 / 10)
    assert metadata.sets == ("a/all", "b/all")


def test_merged_metadata_keeps_extra_keys_that_are_equal_in_all(tmp_path):
    shared, different = {"family": "toy"}, ({"seed": 1}, {"seed": 2})
    paths = [
        build(tmp_path / "a", [[9]], extra={**shared, **different[0]}),
        build(tmp_path / "b", [[9]], first_identifier=5, extra={**shared, **different[1]}),
    ]
    assert train(*paths).metadata.extra == shared


@pytest.mark.parametrize(
    ("key", "other", "values"),
    [
        ("seq_len", {"seq_len": SEQ_LEN + 1}, (SEQ_LEN, SEQ_LEN + 1)),
        ("vocab_size", {"vocab_size": VOCAB + 1}, (VOCAB, VOCAB + 1)),
        ("pad_id", {"pad_id": 3}, (0, 3)),
        ("ignore_label_id", {"ignore_label_id": None}, (0, None)),
        ("blank_identifier_id", {"blank_identifier_id": 1}, (0, 1)),
    ],
)
def test_mismatching_datasets_are_rejected_with_both_names_and_the_key(tmp_path, key, other, values):
    described = []
    for name, options in (("a", {}), ("b", other)):
        sizes = {"seq_len": SEQ_LEN, "vocab_size": VOCAB, **options}
        rows = np.ones((1, sizes["seq_len"]), int)
        with SplitWriter(tmp_path / name / "train", **sizes) as writer:
            writer.add_group(rows, rows, [0])
            described.append((name, writer.close(num_puzzle_identifiers=2)))
    with pytest.raises(UserError, match=rf"{key} is {values[0]} in a, but {values[1]} in b"):
        merge_metadata(described)
    with pytest.raises(UserError, match=rf"{key} is {values[0]} in .*/a, but {values[1]} in .*/b"):
        train(str(tmp_path / "a"), str(tmp_path / "b"), batch=1)


@pytest.mark.parametrize("names", [None, "same"])
def test_an_identifier_in_two_training_directories_is_rejected(tmp_path, names):
    a = build(tmp_path / "a", RAGGED[0], names=names)
    b = build(tmp_path / "b", RAGGED[1], first_identifier=4, names=names)
    with pytest.raises(UserError, match=r"identifier 4 \(2 in all\) is used by both .*/a and .*/b"):
        train(a, b)


def test_the_blank_identifier_is_shared(tmp_path):
    paths = []
    for name in ("a", "b"):
        with SplitWriter(tmp_path / name / "train", seq_len=4, vocab_size=9) as writer:
            writer.add_group(np.ones((6, 4), int), np.ones((6, 4), int), np.zeros(6, int))
            writer.close(num_puzzle_identifiers=1)
        paths.append(str(tmp_path / name))
    assert train(*paths).metadata.num_puzzle_identifiers == 1


def test_two_test_sets_may_share_identifiers_only_with_equal_names(tmp_path):
    a = build(tmp_path / "a", [[1, 2]], split="test", names="same")
    b = build(tmp_path / "b", [[3, 1]], split="test", names="same")
    c = build(tmp_path / "c", [[3, 1]], split="test")
    assert PuzzleDataset([a, b], "test", global_batch_size=2).num_batches() == 4
    with pytest.raises(UserError, match=r"identifier 1 \(2 in all\) is used by both .*/a and .*/c"):
        PuzzleDataset([a, c], "test", global_batch_size=2)


def test_the_model_has_an_embedding_for_the_identifiers_of_both_splits(tmp_path):
    few = build(tmp_path / "few", [[1, 1]]), build(tmp_path / "few", [[1, 1]], split="test")
    many = build(tmp_path / "many", [[1]] * 9), build(tmp_path / "many", [[1]] * 9, split="test")
    for train_path, test_path in ((few[0], many[1]), (many[0], few[1])):
        train_data = PuzzleDataset([train_path], "train", global_batch_size=1)
        test_data = PuzzleDataset([test_path], "test", global_batch_size=1)
        counts = {data.metadata.num_puzzle_identifiers for data in (train_data, test_data)}
        assert counts == {3, 10}
        assert model_sizes(train_data, test_data)["num_puzzle_identifiers"] == 10
