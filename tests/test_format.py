"""The dataset format: older datasets open, and every violation is found and reported."""

import json
import time

import numpy as np
import pytest
from toy_splits import SEQ_LEN, VOCAB, build

from dataset.format import FIELD_DTYPES, SplitWriter, open_split, validate, write_identifiers
from dataset.metadata import _REQUIRED_KEYS
from utils.errors import UserError


def edit_array(root, field, edit, split="train"):
    path = root / split / f"all__{field}.npy"
    array = np.load(path)
    changed = edit(array)
    np.save(path, array if changed is None else changed)


def save_difficulty(root, values):
    np.save(root / "train" / "all__difficulty.npy", np.array(values))


def edit_json(root, split="train", **changes):
    path = root / split / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def older_dataset(root, **changes):
    """Convert to the format of published builders: int64 arrays, total_puzzles missing or the number of groups."""
    build(root, splits=["train"])
    for field in FIELD_DTYPES:
        edit_array(root, field, lambda array: array.astype(np.int64))
    edit_json(root, **changes)
    return root


@pytest.mark.parametrize("total_puzzles", ["absent", None, 2])
def test_older_datasets_open_and_puzzles_are_counted(tmp_path, total_puzzles):
    older_dataset(tmp_path, total_puzzles=total_puzzles)
    if total_puzzles == "absent":
        path = tmp_path / "train" / "dataset.json"
        path.write_text(
            json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "total_puzzles"})
        )
    split = open_split(tmp_path, "train")
    assert split.metadata.total_puzzles == 3
    assert split.sets["all"].inputs.dtype == np.int64
    assert validate(tmp_path) == []


def test_a_label_may_be_the_ignored_one_outside_the_vocabulary(tmp_path):
    older_dataset(tmp_path, ignore_label_id=-100)
    edit_array(tmp_path, "labels", lambda array: array.__setitem__((0, 0), -100))
    assert open_split(tmp_path, "train").sets["all"].labels[0, 0] == -100
    edit_array(tmp_path, "labels", lambda array: array.__setitem__((4, 2), -99))
    with pytest.raises(UserError, match=r"all__labels.npy: row 4, cell 2 is -99"):
        open_split(tmp_path, "train")


def test_without_an_ignored_label_every_label_must_be_in_the_vocabulary(tmp_path):
    older_dataset(tmp_path, ignore_label_id=None)
    assert validate(tmp_path) == []
    edit_array(tmp_path, "labels", lambda array: array.__setitem__((0, 0), -100))
    assert "row 0, cell 0 is -100" in validate(tmp_path)[0]


def cut(root, field, keep):
    path = root / "train" / f"all__{field}.npy"
    path.write_bytes(path.read_bytes()[:keep])


# Damage to a valid dataset, and what the message must contain.
CORRUPTIONS = {
    "inputs outside the vocabulary": (
        lambda root: edit_array(root, "inputs", lambda a: a.__setitem__((4, 5), VOCAB)),
        ["all__inputs.npy", "row 4, cell 5", "is 9", "0..8"],
    ),
    "labels outside the vocabulary": (
        lambda root: edit_array(root, "labels", lambda a: a.__setitem__((slice(2, 4), 1), 200)),
        ["all__labels.npy", "row 2, cell 1", "is 200", "0..8", "2 such values"],
    ),
    "negative inputs": (
        lambda root: edit_array(root, "inputs", lambda a: a.astype(np.int16) - 5),
        ["all__inputs.npy", "row 0", "0..8"],
    ),
    "an identifier above the table": (
        lambda root: edit_array(root, "puzzle_identifiers", lambda a: a.__setitem__(1, 4)),
        ["all__puzzle_identifiers.npy", "index 1 is 4", "0..3"],
    ),
    "a negative identifier": (
        lambda root: edit_array(root, "puzzle_identifiers", lambda a: a.__setitem__(2, -1)),
        ["all__puzzle_identifiers.npy", "index 2 is -1", "0..3"],
    ),
    "puzzle indices that do not start at 0": (
        lambda root: edit_array(root, "puzzle_indices", lambda a: a.__setitem__(0, 1)),
        ["all__puzzle_indices.npy", "index 0 is 1", "must be 0"],
    ),
    "puzzle indices that do not increase": (
        lambda root: edit_array(root, "puzzle_indices", lambda a: a.__setitem__(2, 3)),
        ["all__puzzle_indices.npy", "does not increase at index 2", "3 is followed by 3"],
    ),
    "puzzle indices that do not end at the examples": (
        lambda root: edit_array(root, "puzzle_indices", lambda a: a.__setitem__(-1, 7)),
        ["all__puzzle_indices.npy", "index 3", "is 7", "6 examples"],
    ),
    "too few puzzle indices": (
        lambda root: edit_array(root, "puzzle_indices", lambda a: np.delete(a, 1)),
        ["all__puzzle_indices.npy", "3 entries", "need 4"],
    ),
    "empty puzzle indices": (
        lambda root: edit_array(root, "puzzle_indices", lambda a: a[:1]),
        ["all__puzzle_indices.npy", "1 entries", "at least 2"],
    ),
    "group indices that do not start at 0": (
        lambda root: edit_array(root, "group_indices", lambda a: a.__setitem__(0, -1)),
        ["all__group_indices.npy", "index 0 is -1"],
    ),
    "group indices that decrease": (
        lambda root: edit_array(root, "group_indices", lambda a: a.__setitem__(1, 4)),
        ["all__group_indices.npy", "does not increase at index 2", "4 is followed by 3"],
    ),
    "group indices that do not end at the puzzles": (
        lambda root: edit_array(root, "group_indices", lambda a: a.__setitem__(-1, 5)),
        ["all__group_indices.npy", "is 5", "3 puzzles"],
    ),
    "labels for fewer examples": (
        lambda root: edit_array(root, "labels", lambda a: a[:-1]),
        ["all__labels.npy", "5 examples", "6"],
    ),
    "difficulties for fewer examples": (
        lambda root: np.save(root / "train" / "all__difficulty.npy", np.arange(5)),
        ["all__difficulty.npy", "5 entries", "6 examples"],
    ),
    "a seq_len that the rows do not have": (
        lambda root: edit_json(root, seq_len=7),
        ["all__inputs.npy", "6 cells", "seq_len is 7"],
    ),
    "flat inputs": (
        lambda root: edit_array(root, "inputs", np.ravel),
        ["all__inputs.npy", "1 dimensions", "(36,)", "must have 2"],
    ),
    "indices with two dimensions": (
        lambda root: edit_array(root, "group_indices", lambda a: a[None]),
        ["all__group_indices.npy", "2 dimensions", "must have 1"],
    ),
    "float labels": (
        lambda root: edit_array(root, "labels", lambda a: a.astype(np.float32)),
        ["all__labels.npy", "float32", "integers"],
    ),
    "a truncated array": (lambda root: cut(root, "inputs", 140), ["all__inputs.npy", "truncated"]),
    "a truncated header": (lambda root: cut(root, "labels", 40), ["all__labels.npy", "truncated"]),
    "an empty file": (lambda root: cut(root, "group_indices", 0), ["all__group_indices.npy", "truncated"]),
    "a pickled array": (
        lambda root: np.save(root / "train" / "all__labels.npy", np.array([{}]), allow_pickle=True),
        ["all__labels.npy", "not an npy array"],
    ),
    "a missing array": (
        lambda root: (root / "train" / "all__puzzle_indices.npy").unlink(),
        ["all__puzzle_indices.npy", "is missing", "'all'"],
    ),
    "a set without files": (
        lambda root: edit_json(root, sets=["all", "more"]),
        ["more__inputs.npy", "'more'"],
    ),
    "no sets": (lambda root: edit_json(root, sets=[]), ["dataset.json", "sets is []"]),
    "a set named twice": (
        lambda root: edit_json(root, sets=["all", "all"]),
        ["dataset.json", "sets is", "differ"],
    ),
    "a set that leaves the folder": (
        lambda root: edit_json(root, sets=["../all"]),
        ["dataset.json", "slashes"],
    ),
    "a wrong number of groups": (
        lambda root: edit_json(root, total_groups=5),
        ["dataset.json", "total_groups is 5", "2 groups"],
    ),
    "a wrong number of puzzles": (
        lambda root: edit_json(root, total_puzzles=5),
        ["dataset.json", "total_puzzles is 5", "3 puzzles"],
    ),
    "a wrong mean": (
        lambda root: edit_json(root, mean_puzzle_examples=1.0),
        ["dataset.json", "mean_puzzle_examples is 1.0", "give 2"],
    ),
    "a mean that is not a number": (
        lambda root: edit_json(root, mean_puzzle_examples="2"),
        ["dataset.json", "mean_puzzle_examples is '2'"],
    ),
    "a vocabulary that is not an integer": (
        lambda root: edit_json(root, vocab_size="9"),
        ["dataset.json", "vocab_size is '9'", "integer"],
    ),
    "an ignored label that is not an integer": (
        lambda root: edit_json(root, ignore_label_id=0.5),
        ["dataset.json", "ignore_label_id is 0.5", "null"],
    ),
    "a padding token outside the vocabulary": (
        lambda root: edit_json(root, pad_id=9),
        ["dataset.json", "pad_id is 9", "vocab_size, which is 9"],
    ),
    "a blank identifier outside the table": (
        lambda root: edit_json(root, blank_identifier_id=4),
        ["dataset.json", "blank_identifier_id is 4", "num_puzzle_identifiers, which is 4"],
    ),
    "fewer names than identifiers": (
        lambda root: edit_json(root, num_puzzle_identifiers=5),
        ["identifiers.json", "holds 4 names", "num_puzzle_identifiers is 5 in train/dataset.json"],
    ),
    "more names than identifiers": (
        lambda root: write_identifiers(root, ["<blank>", *"abcde"]),
        ["identifiers.json", "holds 6 names", "num_puzzle_identifiers is 4 in train/dataset.json"],
    ),
    "a difficulty that is not a number": (
        lambda root: save_difficulty(root, [0, 1, np.nan, 2, 3, np.nan]),
        ["all__difficulty.npy", "index 2 is nan", "at least 0", "2 such values"],
    ),
    "an infinite difficulty": (
        lambda root: save_difficulty(root, [0, np.inf, 1, 2, 3, 4]),
        ["all__difficulty.npy", "index 1 is inf", "finite"],
    ),
    "a negative difficulty": (
        lambda root: save_difficulty(root, np.array([0, 1, 2, 3, 4, -1])),
        ["all__difficulty.npy", "index 5 is -1", "at least 0"],
    ),
    "an unknown store": (
        lambda root: edit_json(root, store="zip"),
        ["dataset.json", "store is 'zip'", "npy, lazy"],
    ),
    "dataset.json that is not JSON": (
        lambda root: (root / "train" / "dataset.json").write_text("{"),
        ["dataset.json", "not valid JSON"],
    ),
    "dataset.json that is not an object": (
        lambda root: (root / "train" / "dataset.json").write_text("[]"),
        ["dataset.json", "object", "list"],
    ),
    "no dataset.json": (
        lambda root: (root / "train" / "dataset.json").unlink(),
        ["dataset.json", "is missing"],
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_violation_is_rejected_and_reported(tmp_path, name):
    corrupt, named = CORRUPTIONS[name]
    build(tmp_path)
    corrupt(tmp_path)
    with pytest.raises(UserError) as caught:
        open_split(tmp_path, "train")
    assert all(part in str(caught.value) for part in named), str(caught.value)
    problems = validate(tmp_path)
    assert any(all(part in problem for part in named) for problem in problems), problems
    assert not any(str(tmp_path / "test" / "all") in problem for problem in problems), (
        "the other split is fine"
    )


@pytest.mark.parametrize("key", _REQUIRED_KEYS)
def test_a_missing_key_is_rejected_and_reported(tmp_path, key):
    build(tmp_path)
    path = tmp_path / "train" / "dataset.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    with pytest.raises(UserError, match=rf"train/dataset\.json: lacks the keys {key}"):
        open_split(tmp_path, "train")


def test_a_value_in_a_later_chunk_is_reported_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.example_set._CHUNK_BYTES", 2 * SEQ_LEN)  # read two rows at a time
    build(tmp_path)
    edit_array(tmp_path, "inputs", lambda array: array.__setitem__((slice(3, 6), 4), 99))
    [problem] = validate(tmp_path)
    assert "row 3, cell 4 is 99" in problem
    assert "3 such values" in problem


def test_validate_lists_all_violations_and_open_the_first_few(tmp_path):
    build(tmp_path)
    edit_array(tmp_path, "inputs", lambda array: array.__setitem__((0, 0), 99))
    edit_array(tmp_path, "labels", lambda array: array.__setitem__((5, 0), 99))
    edit_array(tmp_path, "puzzle_indices", lambda array: array.__setitem__(slice(None), [1, 1, 4, 5]))
    edit_array(tmp_path, "puzzle_identifiers", lambda array: array.__setitem__(0, 77))
    edit_json(tmp_path, total_groups=9)
    edit_array(tmp_path, "group_indices", lambda array: array.__setitem__(0, 2), split="test")
    edit_json(tmp_path, "test", mean_puzzle_examples=7)
    problems = validate(tmp_path)
    # 1 inputs, 1 labels, 3 puzzle indices, 1 identifier, 1 count; 2 + 1 in test.
    assert len(problems) == 10, problems
    with pytest.raises(UserError, match="and 2 more problems"):
        open_split(tmp_path, "train")


def test_validate_reports_keys_in_which_splits_differ(tmp_path):
    build(tmp_path)
    edit_json(tmp_path, "test", vocab_size=VOCAB + 1, ignore_label_id=None)
    assert len(validate(tmp_path)) == 2
    assert "vocab_size is 9 in train/dataset.json, but 10 in test/dataset.json" in validate(tmp_path)[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "is missing"),
        ("{}", "list of names"),
        ('["a"]', "'a', but must be '<blank>'"),
        ('["<blank>"]', "1 names"),
    ],
)
def test_validate_checks_the_identifier_names(tmp_path, content, named):
    build(tmp_path)
    path = tmp_path / "identifiers.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    problems = validate(tmp_path)
    assert problems
    assert all("identifiers.json" in problem for problem in problems)
    assert named in problems[0]


def test_missing_datasets_and_missing_splits_are_distinguished(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such dataset"):
        open_split(tmp_path / "nowhere", "train")
    assert "no such dataset" in validate(tmp_path / "nowhere")[0]
    build(tmp_path, splits=["train"])
    with pytest.raises(UserError, match=r"has no split 'test' \(it has train\)"):
        open_split(tmp_path, "test")


def test_a_million_rows_are_checked_within_seconds(tmp_path):
    with SplitWriter(tmp_path / "train", seq_len=81, vocab_size=11) as writer:
        rows, zeros = np.full((100_000, 81), 10, np.uint8), np.zeros(100_000, int)
        for _ in range(10):
            writer.add_group(rows, rows, zeros)
        writer.close(num_puzzle_identifiers=1)
    started = time.perf_counter()
    open_split(tmp_path, "train")
    assert time.perf_counter() - started < 5  # about 0.1 s when the machine is idle
