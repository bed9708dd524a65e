"""Writing datasets: data is read back, wrong builders fail immediately, partial datasets do not open."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_splits import SEQ_LEN, VOCAB, build, new_writer, tokens

from dataset.format import (
    FIELD_DTYPES,
    close_splits,
    open_split,
    read_identifiers,
    read_metadata,
    validate,
    write_identifiers,
)
from dataset.options import building_into
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def test_a_split_is_read_back_as_written(tmp_path):
    inputs, labels = build(tmp_path)
    split = open_split(tmp_path, "train")
    example_set = split.sets["all"]
    np.testing.assert_array_equal(example_set.inputs, inputs)
    np.testing.assert_array_equal(example_set.labels, labels)
    assert example_set.puzzle_identifiers.tolist() == [1, 2, 3]
    assert example_set.puzzle_indices.tolist() == [0, 3, 4, 6]
    assert example_set.group_indices.tolist() == [0, 2, 3]
    assert (example_set.num_examples, example_set.num_puzzles, example_set.num_groups) == (6, 3, 2)
    assert example_set.difficulty is None
    assert example_set.puzzles_of(np.arange(6)).tolist() == [0, 0, 0, 1, 2, 2]
    for ours, stored in zip(example_set.read(np.array([5, 0, 5])), (inputs, labels), strict=True):
        np.testing.assert_array_equal(ours, stored[[5, 0, 5]])
    assert split.metadata.to_json() == {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": VOCAB,
        "seq_len": SEQ_LEN,
        "num_puzzle_identifiers": 4,
        "total_groups": 2,
        "mean_puzzle_examples": 2.0,
        "total_puzzles": 3,
        "sets": ["all"],
        "family": "toy",
    }
    assert read_metadata(tmp_path / "train") == split.metadata
    assert read_identifiers(tmp_path) == ["<blank>", "a", "b", "c"]
    assert validate(tmp_path) == []


def test_files_have_the_published_names_and_dtypes(tmp_path):
    build(tmp_path, splits=["train"])
    for field, dtype in FIELD_DTYPES.items():
        assert np.load(tmp_path / "train" / f"all__{field}.npy").dtype == dtype
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == sorted(
        ["dataset.json", *(f"all__{field}.npy" for field in FIELD_DTYPES)]
    )


def test_adding_many_groups_at_once_equals_adding_them_one_by_one(tmp_path):
    inputs, labels = tokens(6), tokens(6, 1)
    build(tmp_path, splits=["train"])
    one_by_one = open_split(tmp_path, "train").sets["all"]
    with new_writer(tmp_path / "test") as writer:
        identifiers, per_puzzle, per_group = np.array([1, 2, 3]), np.array([3, 1, 2]), np.array([2, 1])
        writer.add_groups(inputs, labels, identifiers, per_puzzle, per_group)
        writer.close(num_puzzle_identifiers=4)
    at_once = open_split(tmp_path, "test").sets["all"]
    for field in ("inputs", "puzzle_identifiers", "puzzle_indices", "group_indices"):
        np.testing.assert_array_equal(getattr(at_once, field), getattr(one_by_one, field))


@pytest.mark.parametrize(("values", "dtype"), [([3, 0, 70000], np.int32), ([0.5, 1.5, 2.5], np.float32)])
def test_difficulty_is_kept_per_example(tmp_path, values, dtype):
    with new_writer(tmp_path / "test") as writer:
        writer.add_groups(tokens(2), tokens(2), np.zeros(2, int), difficulty=np.array(values[:2]))
        writer.add_group(tokens(1), tokens(1), np.zeros(1, int), difficulty=values[2:])
        writer.close(num_puzzle_identifiers=1)
    difficulty = open_split(tmp_path, "test").sets["all"].difficulty
    assert difficulty.dtype == dtype
    assert difficulty.tolist() == values


def test_a_rebuilt_split_drops_the_old_difficulty(tmp_path):
    for difficulty in (np.arange(2), None):
        with new_writer(tmp_path / "test") as writer:
            writer.add_groups(tokens(2), tokens(2), np.zeros(2, int), difficulty=difficulty)
            writer.close(num_puzzle_identifiers=1)
    assert open_split(tmp_path, "test").sets["all"].difficulty is None


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_exception_while_writing_leaves_the_existing_dataset_unchanged(tmp_path):
    build(tmp_path)
    before = contents(tmp_path)

    def interrupted_build():
        with new_writer(tmp_path / "train") as writer:
            writer.add_group(tokens(3, 7), tokens(3, 8), np.zeros(3, int))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted_build()
    assert contents(tmp_path) == before


def test_a_split_without_puzzles_is_rejected_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(UserError, match="test: there is no puzzle to write"),
        new_writer(tmp_path / "test") as writer,
    ):
        writer.close(num_puzzle_identifiers=1)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((tokens(1) + VOCAB, tokens(1), [0]), "inputs span"),
        ((tokens(1), tokens(1) + VOCAB, [0]), "labels span"),
        ((tokens(1), tokens(1) - VOCAB, [0]), "labels span"),
        ((tokens(1)[:, 1:], tokens(1)[:, 1:], [0]), r"\(1, 5\)"),
        ((tokens(2), tokens(2), [0]), r"\(2, 6\)"),
        ((tokens(2), tokens(2), [0, 1], [2, 0]), "without examples"),
        ((tokens(1), tokens(1), [-1]), "negative"),
    ],
)
def test_a_builder_that_breaks_a_rule_fails_immediately(tmp_path, arguments, message):
    with pytest.raises(AssertionError, match=message), new_writer(tmp_path / "train") as writer:
        writer.add_group(*arguments)


def test_an_identifier_above_the_given_number_is_rejected(tmp_path):
    with new_writer(tmp_path / "train") as writer:
        writer.add_group(tokens(1), tokens(1), [5])
        with pytest.raises(AssertionError, match=r"\(5, 5\)"):
            writer.close(num_puzzle_identifiers=5)


KILLED_BUILD = """
import sys, time, numpy as np
sys.path.insert(0, sys.argv[1])
import dataset.writer as w
rows = np.ones((2, 6), int)
train, test = (w.SplitWriter(f"{sys.argv[2]}/{split}", seq_len=6, vocab_size=9) for split in ("train", "test"))
for writer in (train, test):
    writer.add_group(rows, rows, [0, 0])
def wait():
    print("here", flush=True)
    time.sleep(60)
if sys.argv[3] == "before close":
    wait()
publish, calls = w.SplitWriter._publish_arrays, []
def publish_and_wait(self):
    publish(self)
    calls.append(self)
    if sys.argv[3] == f"after {len(calls)} published":
        wait()
w.SplitWriter._publish_arrays = publish_and_wait
w.close_splits([train, test], 1)
"""


@pytest.mark.parametrize("moment", ["before close", "after 1 published", "after 2 published"])
def test_a_killed_build_leaves_the_existing_dataset_or_an_unreadable_one(tmp_path, moment):
    build(tmp_path)
    before = {split: contents(tmp_path / split) for split in ("train", "test")}
    command = [sys.executable, "-c", KILLED_BUILD, str(ROOT), str(tmp_path), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
    for split in ("train", "test"):
        if moment == "before close":
            now = contents(tmp_path / split)
            assert {name: now[name] for name in before[split]} == before[split]
            open_split(tmp_path, split)
        else:
            with pytest.raises(UserError, match=r"dataset\.json: is missing"):
                open_split(tmp_path, split)
    with building_into(tmp_path, "toy"):  # the next build works and removes leftovers of the killed one
        build(tmp_path, seed=5)
    assert validate(tmp_path) == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_splits_are_published_in_one_step(tmp_path):
    with new_writer(tmp_path / "train") as train, new_writer(tmp_path / "test") as test:
        train.add_groups(tokens(3), tokens(3), np.zeros(3, int))
        test.add_groups(tokens(2), tokens(2), np.zeros(2, int))
        train.extra["rows"] = [4, 1, 7]
        metadata = close_splits([train, test], num_puzzle_identifiers=1)
    write_identifiers(tmp_path, ["<blank>"])
    assert [m.total_puzzles for m in metadata] == [3, 2]
    assert open_split(tmp_path, "train").metadata.extra == {"rows": [4, 1, 7]}
    assert validate(tmp_path) == []


def test_writing_many_examples_needs_constant_memory(tmp_path):
    script = """
import resource, sys, numpy as np
sys.path.insert(0, sys.argv[1])
from dataset.format import SplitWriter
rows, zeros = np.ones((1000, 900), np.uint8), np.zeros(1000, int)
with SplitWriter(sys.argv[2], seq_len=900, vocab_size=9) as writer:
    writer.add_group(rows, rows, zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        writer.add_group(rows, rows, zeros)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", script, str(ROOT), str(tmp_path / "train")]
    grown_kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kib < 20_000, "108 MB of tokens passed through"
