"""ARC grids: sequences, augmentations, hashes, and errors in task files."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest

from dataset.augment import dihedral
from dataset.families.arc.grids import (
    BORDER,
    FIRST_COLOUR,
    GRID_SIZE,
    NUM_AUGMENTATIONS,
    PAD,
    SEQ_LEN,
    Augmentation,
    augmented_names,
    crop,
    crop_sizes,
    decode_numbers,
    encode,
    frame_layout,
    grid_digest,
    grid_hash,
    parse_grid,
    puzzle_hash,
    split_name,
)
from dataset.families.arc.tasks import read_subset
from utils.errors import UserError

SIZES = [(1, 1), (2, 5), (30, 4), (4, 30), (30, 30), (29, 29), (13, 7)]


def random_grid(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 10, (height, width)).astype(np.uint8)


# ------------------------------------------------------------------------------------------ sequences


@pytest.mark.parametrize("size", SIZES)
def test_cropping_undoes_encoding(size):
    grid = random_grid(np.random.default_rng(0), *size)
    sequence = encode(grid)
    assert sequence.shape == (SEQ_LEN,)
    assert sequence.dtype == np.uint8
    assert np.array_equal(crop(sequence), grid)


@pytest.mark.parametrize("size", SIZES)
def test_a_shifted_sequence_holds_only_the_grid_and_a_border_if_it_fits(size):
    rng = np.random.default_rng(1)
    grid = random_grid(rng, *size)
    height, width = size
    for row, column in {(0, 0), (GRID_SIZE - height, GRID_SIZE - width), (0, GRID_SIZE - width)}:
        frame = encode(grid, row, column).reshape(GRID_SIZE, GRID_SIZE)
        for r in range(GRID_SIZE):
            for c in range(GRID_SIZE):
                inside_rows, inside_columns = row <= r < row + height, column <= c < column + width
                if inside_rows and inside_columns:
                    expected = grid[r - row, c - column] + FIRST_COLOUR
                elif (r == row + height and inside_columns) or (c == column + width and inside_rows):
                    expected = BORDER
                else:
                    expected = PAD
                assert frame[r, c] == expected, (row, column, r, c)


def test_the_crop_is_the_largest_top_left_rectangle_with_the_fewest_rows():
    rng = np.random.default_rng(2)
    sequences = rng.choice(
        [0, 1, 2, 7, 11, 12, 200], (60, SEQ_LEN), p=[0.03, 0.02, 0.4, 0.3, 0.23, 0.01, 0.01]
    )
    for sequence, size in zip(sequences, crop_sizes(sequences), strict=True):
        is_colour = ((sequence >= 2) & (sequence <= 11)).reshape(30, 30)
        best = (0, 0)
        for height in range(1, 31):
            for width in range(1, 31):
                if is_colour[:height, :width].all() and height * width > best[0] * best[1]:
                    best = (height, width)
        assert tuple(size) == best


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_layout_matches_encoded_transforms(size):
    grid = random_grid(np.random.default_rng(3), *size)
    cells, border = frame_layout(*size)
    for transform in range(8):
        sequence = np.zeros(SEQ_LEN, np.uint8)
        sequence[cells[transform]] = grid.ravel() + FIRST_COLOUR
        sequence[border[transform]] = BORDER
        assert np.array_equal(sequence, encode(dihedral(grid, transform)))


# ------------------------------------------------------------------------------------------ augmentations


def test_undoing_an_augmentation_restores_the_grid_for_each_transform():
    rng = np.random.default_rng(4)
    for transform in range(8):
        colours = "0" + "".join(map(str, rng.permutation(np.arange(1, 10))))
        augmentation = Augmentation(transform, colours)
        grid = random_grid(rng, 3, 5)
        moved = augmentation.apply(grid)
        assert np.array_equal(augmentation.invert(moved), grid)
        assert moved.dtype == augmentation.invert(moved).dtype == np.uint8
        tokens = np.arange(FIRST_COLOUR, FIRST_COLOUR + 10, dtype=np.uint8).reshape(2, 5)
        restored = np.frombuffer(tokens.tobytes().translate(augmentation.inverse_table()), np.uint8).reshape(
            2, 5
        )
        assert np.array_equal(Augmentation(0, colours).apply(restored), tokens - FIRST_COLOUR)


def test_numbers_and_names_of_augmentations_are_equivalent():
    numbers = np.concatenate(
        [[0, 1, NUM_AUGMENTATIONS - 1], np.random.default_rng(5).integers(0, NUM_AUGMENTATIONS, 200)]
    )
    transforms, colours = decode_numbers(numbers)
    in_order = {"".join(digits): rank for rank, digits in enumerate(itertools.permutations("123456789"))}
    names = augmented_names("task", numbers)
    assert names[0] == "task"
    for number, transform, digits, name in zip(numbers, transforms, colours, names, strict=True):
        task, augmentation = split_name(name)
        assert task == "task"
        assert augmentation == Augmentation(int(transform), "".join(map(str, digits)))
        assert augmentation.transform * len(in_order) + in_order[augmentation.colours[1:]] == number


def test_every_number_is_a_different_augmentation():
    transforms, colours = decode_numbers(np.arange(NUM_AUGMENTATIONS))
    keys = transforms * 10**10 + colours.astype(np.int64) @ 10 ** np.arange(10)
    assert len(np.unique(keys)) == NUM_AUGMENTATIONS
    assert np.array_equal(np.sort(colours[::9999], axis=1), np.tile(np.arange(10), (len(colours[::9999]), 1)))
    assert not colours[:, 0].any()


@pytest.mark.parametrize(
    "name",
    [
        "a|||t1",
        "a|||t8|||0123456789",
        "a|||1|||0123456789",
        "a|||t1|||1023456789",
        "a|||t1|||0113456789",
        "a|||t|||0123456789",
    ],
)
def test_a_malformed_identifier_is_rejected(name):
    with pytest.raises(UserError, match="permutation"):
        split_name(name)


# ------------------------------------------------------------------------------------------ hashes


def test_grids_of_different_shapes_hash_differently():
    assert grid_hash(np.zeros((2, 3), np.uint8)) != grid_hash(np.zeros((3, 2), np.uint8))
    grid = random_grid(np.random.default_rng(6), 4, 5)
    assert grid_digest(dihedral(grid, 6)) == grid_digest(np.ascontiguousarray(grid.T))


def test_the_hash_of_a_puzzle_ignores_the_order_of_pairs_but_not_their_sides():
    rng = np.random.default_rng(7)
    pairs = [(random_grid(rng, 2, 2), random_grid(rng, 3, 1)) for _ in range(3)]
    assert puzzle_hash(pairs) == puzzle_hash(pairs[::-1])
    assert puzzle_hash(pairs) != puzzle_hash([pair[::-1] for pair in pairs])


# ------------------------------------------------------------------------------------------ reading tasks

TASK = {"train": [{"input": [[1, 2]], "output": [[3]]}], "test": [{"input": [[4]]}, {"input": [[5]]}]}


def write_kaggle(folder, tasks, answers=None):
    (folder / "x_sub_challenges.json").write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
    if answers is not None:
        (folder / "x_sub_solutions.json").write_text(json.dumps(answers))
    return str(folder / "x")


def changed(path: list, value: object) -> dict:
    """Return TASK with the entry at `path` replaced, or removed if value is `...`."""
    task = json.loads(json.dumps(TASK))
    *parents, last = path
    entry = task
    for key in parents:
        entry = entry[key]
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    return task


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["train", 0, "input"],
            [[1, 2], [3]],
            r"task t1, train pair 0, input: row 1 has 1 cells, but row 0 has 2",
        ),
        (
            ["train", 0, "output"],
            [[10]],
            r"train pair 0, output: row 0, column 0 is 10, but colours are integers 0..9",
        ),
        (["train", 0, "output"], [[-1]], r"is -1"),
        (["train", 0, "output"], [[1.0]], r"is 1.0"),
        (["train", 0, "output"], [[True]], r"is True"),
        (["train", 0, "output"], [["1"]], r"is '1'"),
        (["test", 1, "input"], [[0]] * 31, r"test pair 1, input: is 31 x 1, but the maximum is 30 x 30"),
        (["test", 1, "input"], [], r"test pair 1, input: a grid must be a list"),
        (["test", 1, "input"], [[]], r"a grid must be a list"),
        (["test", 1, "input"], [1, 2], r"a grid must be a list"),
        (["train"], ..., r"task t1: lacks the key 'train'"),
        (["test"], ..., r"task t1: lacks the key 'test'"),
        (["test"], [], r"test must be a nonempty list of pairs"),
        (["train", 0, "input"], ..., r"train pair 0: lacks the key 'input'"),
        (["train", 0, "output"], ..., r"train pair 0: lacks the key 'output'"),
        (["train", 0], 3, r"train pair 0: must be an object"),
    ],
)
def test_a_malformed_task_is_rejected_with_its_location(tmp_path, path, value, message):
    prefix = write_kaggle(tmp_path, {"t0": TASK, "t1": changed(path, value)})
    with pytest.raises(UserError, match=message) as error:
        read_subset(prefix, "sub")
    assert "x_sub_challenges.json" in str(error.value)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"t0": [[[1]]]}, r"x_sub_solutions.json: task t0: has 1 answers, but the task has 2 test inputs"),
        ({"t0": [[[1]], [[1], [2, 3]]]}, r"x_sub_solutions.json: task t0, answer 1: row 1 has 2 cells"),
        ({"other": [[[1]]]}, r"task other is not in x_sub_challenges.json"),
        ([], r"x_sub_solutions.json: must hold an object"),
    ],
)
def test_malformed_answers_are_rejected_with_their_location(tmp_path, answers, message):
    with pytest.raises(UserError, match=message):
        read_subset(write_kaggle(tmp_path, {"t0": TASK}, answers), "sub")


def test_broken_json_missing_files_and_bad_names_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"challenges.json: is not valid JSON \(line 2, column"):
        read_subset(write_kaggle(tmp_path, '{"a":\n ]'), "sub")
    with pytest.raises(UserError, match=r"neither a file .*x_none_challenges.json nor a folder"):
        read_subset(str(tmp_path / "x"), "none")
    with pytest.raises(UserError, match="must not be empty or contain"):
        read_subset(write_kaggle(tmp_path, {"a|||b": TASK}), "sub")
    with pytest.raises(UserError, match="holds no tasks"):
        read_subset(write_kaggle(tmp_path, {}), "sub")


def test_answers_come_from_the_solutions_file_and_are_unknown_without_it(tmp_path):
    answers = {"t0": [[[7]], [[8, 9]]]}
    solved, unsolved = read_subset(write_kaggle(tmp_path, {"t0": TASK, "t1": TASK}, answers), "sub")
    assert solved.unknown == []
    assert [answer.tolist() for _, answer in solved.test] == answers["t0"]
    assert unsolved.unknown == [0, 1]
    assert [answer.tolist() for _, answer in unsolved.test] == [[[0]], [[0]]]
    assert [answer.size for _, answer in unsolved.labelled_test] == [0, 0]


def write_folder(folder, tasks: dict[str, int]):
    """Write one file per path; the number identifies the task."""
    for path, number in tasks.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        raw = {
            "train": [{"input": [[number]], "output": [[number]]}],
            "test": [{"input": [[1]], "output": [[2]]}],
        }
        (folder / path).write_text(json.dumps(raw))
    return folder


def test_files_in_nested_folders_are_found(tmp_path):
    # As in ConceptARC and 1D-ARC, with files left by file managers.
    tasks = ("corpus/Copy/Copy1.json", "corpus/Copy/Old/Copy2.json", "corpus/Count/Count1.json")
    write_folder(tmp_path, dict.fromkeys(tasks, 1))
    for rubbish in (".DS_Store", "._Copy1.json", "README.md"):
        (tmp_path / "corpus" / "Copy" / rubbish).write_bytes(b"\0")
    assert [task.name for task in read_subset(str(tmp_path), "corpus")] == ["Copy1", "Copy2", "Count1"]
    assert [task.name for task in read_subset(str(tmp_path / "corpus"), "Count")] == ["Count1"]
    assert [task.name for task in read_subset(str(tmp_path), "corpus/Copy")] == ["Copy1", "Copy2"]


def test_files_of_one_name_are_named_after_their_paths(tmp_path):
    write_folder(tmp_path / "sub", {"a/1.json": 1, "b/1.json": 2, "b/2.json": 3})
    read = read_subset(str(tmp_path), "sub")
    assert [(task.name, int(task.train[0][0][0, 0])) for task in read] == [("a/1", 1), ("b/1", 2), ("2", 3)]


def test_file_names_may_have_hyphens(tmp_path):
    for first, second in ("__", "_-", "-_", "--"):
        folder = tmp_path / f"{ord(first)}{ord(second)}"
        folder.mkdir()
        for kind, content in (("challenges", {"t0": TASK}), ("solutions", {"t0": [[[7]], [[8, 9]]]})):
            (folder / f"arc-agi{first}training{second}{kind}.json").write_text(json.dumps(content))
        (task,) = read_subset(str(folder / "arc-agi"), "training")
        assert task.unknown == []


def test_errors_suggest_options_that_find_tasks(tmp_path):
    (tmp_path / "arc-agi-1_training_challenges.json").write_text(json.dumps({"t0": TASK}))
    (tmp_path / "arc-agi-1_evaluation_challenges.json").write_text(json.dumps({"t0": TASK}))
    found = f"--input-file-prefix {tmp_path / 'arc-agi-1'} --subsets evaluation training"
    for prefix in (tmp_path, tmp_path / "arc-agi", tmp_path / "none"):
        with pytest.raises(UserError, match=re.escape(f"there are tasks for {found}")):
            read_subset(str(prefix), "training")
    write_folder(tmp_path / "nested", {"corpus/A/A1.json": 1})
    with pytest.raises(
        UserError, match=re.escape(f"--input-file-prefix {tmp_path / 'nested'} --subsets corpus")
    ):
        read_subset(str(tmp_path / "nested"), "A")
    (tmp_path / "nested" / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no tasks; there are tasks for .*--subsets corpus"):
        read_subset(str(tmp_path / "nested"), "empty")
    with pytest.raises(UserError, match="nowhere does not exist: check --input-file-prefix"):
        read_subset(str(tmp_path / "nowhere" / "arc"), "training")


def test_one_of_several_answers_may_be_unknown(tmp_path):
    answers = {"t0": [[[7]], None]}
    (task,) = read_subset(write_kaggle(tmp_path, {"t0": TASK}, answers), "sub")
    assert task.unknown == [1]
    assert [answer.tolist() for _, answer in task.labelled_test] == [[[7]], []]
    folder = tmp_path / "data" / "sub"
    folder.mkdir(parents=True)
    raw = {**TASK, "test": [{**TASK["test"][0], "output": None}, {**TASK["test"][1], "output": [[5]]}]}
    (folder / "t0.json").write_text(json.dumps(raw))
    assert read_subset(str(tmp_path / "data"), "sub")[0].unknown == [0]


def test_the_official_folders_read_like_the_kaggle_files(tmp_path):
    answers = {name: [[[7]], [[8, 9]]] for name in ("b", "a")}
    kaggle = read_subset(write_kaggle(tmp_path, {"a": TASK, "b": TASK}, answers), "sub")
    (tmp_path / "data" / "training").mkdir(parents=True)
    for task in kaggle:
        (tmp_path / "data" / "training" / f"{task.name}.json").write_text(json.dumps(task.to_json()))
    official = read_subset(str(tmp_path / "data"), "training")
    assert [(t.name, t.known, t.to_json()) for t in official] == [
        (t.name, t.known, t.to_json()) for t in kaggle
    ]
    (tmp_path / "data" / "training" / "c.json").write_text("[1]")
    with pytest.raises(UserError, match=r"c.json: must be an object"):
        read_subset(str(tmp_path / "data"), "training")


def test_parsed_grids_are_uint8():
    assert parse_grid([[0, 9]], "here").dtype == np.uint8
