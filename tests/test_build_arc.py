"""The ARC builder: its output, options and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arc_samples import PREFIX, build

from dataset import build_arc_dataset
from dataset.build_arc_dataset import parse_options
from dataset.families.arc import plan as arc_plan
from dataset.families.arc.grids import Augmentation, decode_numbers, encode, puzzle_hash, split_name
from dataset.families.arc.plan import choose_augmentations
from dataset.format import SPLITS, open_split, read_identifiers, validate

ROOT = Path(__file__).parents[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_tasks(folder: Path, subset: str, tasks: dict, answers: dict | None = None) -> Path:
    (folder / f"own_{subset}_challenges.json").write_text(json.dumps(tasks))
    if answers is not None:
        (folder / f"own_{subset}_solutions.json").write_text(json.dumps(answers))
    return folder / "own"


def task(*grids: list) -> dict:
    """Return a task with demonstrations and one test input, given as (input, output), ..., input."""
    *pairs, question = grids
    return {"train": [{"input": a, "output": b} for a, b in pairs], "test": [{"input": question}]}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("arc") / "built")


# ------------------------------------------------------------------------------------------ content


def test_a_built_dataset_is_valid_and_records_how_it_was_made(built):
    assert validate(built) == []
    extra = open_split(built, "test").metadata.extra
    assert (extra["family"], extra["grid_shape"], extra["seed"]) == ("arc", [30, 30], 42)
    assert extra["options"]["num_aug"] == 5
    assert extra["unknown_answers"] == {}
    assert "workers" not in extra["options"]


def test_train_has_all_demonstrations_and_the_test_pairs_of_other_subsets(built):
    names = read_identifiers(built)
    tests, tested = 0, set()
    for subset in ("training", "concept", "evaluation"):
        raw = json.loads(Path(f"{PREFIX}_{subset}_challenges.json").read_text())
        answers = json.loads(Path(f"{PREFIX}_{subset}_solutions.json").read_text())
        for name, content in raw.items():
            pairs = [(p["input"], p["output"]) for p in content["train"]]
            asked = [(p["input"], a) for p, a in zip(content["test"], answers[name], strict=True)]
            in_train = pairs if subset == "evaluation" else pairs + asked
            assert originals(built, "train", names.index(name)) == in_train
            if subset == "evaluation":
                assert originals(built, "test", names.index(name)) == asked
                tests += len(asked)
                tested.add(name)
    examples = open_split(built, "test").sets["all"]
    assert examples.num_examples == 6 * tests
    assert set(json.loads((built / "test_puzzles.json").read_text())) == tested


def originals(built: Path, split: str, identifier: int) -> list[tuple]:
    """Return the pairs of the puzzle with an identifier, with its augmentation undone."""
    names = read_identifiers(built)
    examples = open_split(built, split).sets["all"]
    puzzle = examples.puzzle_identifiers.tolist().index(identifier)
    rows = np.arange(*examples.puzzle_indices[puzzle : puzzle + 2])
    _, augmentation = split_name(names[identifier])
    return [
        tuple(augmentation.invert(cut(sequence)).tolist() for sequence in pair)
        for pair in zip(*examples.read(rows), strict=True)
    ]


def cut(sequence: np.ndarray) -> np.ndarray:
    """Return the grid in a sequence at any position; assert that the sequence is its encoding there."""
    places = np.argwhere(sequence.reshape(30, 30) >= 2)
    (top, left), (bottom, right) = places.min(0), places.max(0)
    grid = sequence.reshape(30, 30)[top : bottom + 1, left : right + 1] - np.uint8(2)
    assert np.array_equal(encode(grid, top, left), sequence)
    return grid


def test_every_copy_is_its_task_under_the_augmentation_in_its_name(built):
    names = read_identifiers(built)
    for identifier, name in enumerate(names[1:], start=1):
        own_name, _ = split_name(name)
        assert originals(built, "train", identifier) == originals(built, "train", names.index(own_name))


def test_one_example_of_each_train_puzzle_and_the_whole_test_split_are_not_shifted(tmp_path):
    folder = build(tmp_path / "many", "--num-aug", "60")
    train, test = (open_split(folder, split).sets["all"] for split in ("train", "test"))
    inputs, _ = train.read(np.arange(train.num_examples))
    in_place = inputs[:, 0] >= 2
    per_puzzle = np.add.reduceat(in_place, train.puzzle_indices[:-1])
    assert per_puzzle.min() == 1
    assert (per_puzzle == 1).mean() > 0.8  # a random shift is sometimes (0, 0)
    lengths = np.diff(train.puzzle_indices)
    longest = np.flatnonzero(lengths == lengths.max())
    places = {int(in_place[train.puzzle_indices[puzzle] :].argmax()) for puzzle in longest}
    assert places == set(range(lengths.max()))
    tops = {int(np.argwhere(row.reshape(30, 30) >= 2).min(0)[0]) for row in inputs}
    assert len(tops) > 20
    assert (test.read(np.arange(test.num_examples))[0][:, 0] >= 2).all()


def test_input_and_output_of_an_example_shift_together_and_stay_inside(tmp_path):
    folder = build(tmp_path / "many", "--num-aug", "60")
    train = open_split(folder, "train").sets["all"]
    for question, answer in zip(*train.read(np.arange(train.num_examples)), strict=True):
        first = [
            np.argwhere(sequence.reshape(30, 30) >= 2).min(0).tolist() for sequence in (question, answer)
        ]
        assert first[0] == first[1]


# ------------------------------------------------------------------------------------------ augmentations


def random_pairs(seed: int, colours: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(0, colours, (2, size, size), np.uint8)) for _ in range(2)]


SYMMETRIC = np.array([[0, 1, 0], [1, 2, 1], [0, 1, 0]], np.uint8)


@pytest.mark.parametrize(
    "pairs",
    [
        random_pairs(0, 10, 4),
        random_pairs(1, 2, 2),
        [(SYMMETRIC, SYMMETRIC)],
        [(SYMMETRIC, SYMMETRIC.T[:1])] * 2,
    ],
)
def test_fingerprints_are_equal_iff_puzzle_hashes_are(pairs):
    numbers = np.random.default_rng(2).integers(0, 8 * 362880, 250)
    # Duplicates must occur, so include adjacent numbers, which swap only the last colours.
    numbers = np.concatenate([numbers, numbers ^ 1])
    transforms, colours = decode_numbers(numbers)
    hashes = [
        puzzle_hash(
            [tuple(Augmentation(int(t), "".join(map(str, c))).apply(g) for g in pair) for pair in pairs]
        )
        for t, c in zip(transforms, colours, strict=True)
    ]
    fingerprints = arc_plan._Fingerprints(pairs)(numbers).tolist()
    assert len(set(zip(hashes, fingerprints, strict=True))) == len(set(hashes)) == len(set(fingerprints))


def test_identical_copies_are_written_once():
    one_cell = [(np.array([[1]], np.uint8), np.array([[2]], np.uint8))]
    generator = np.random.default_rng(3)
    # Ordered pairs of two colours of nine.
    assert len(choose_augmentations(one_cell, 400, generator)) == 9 * 8
    black = [(np.zeros((2, 2), np.uint8),) * 2]
    assert choose_augmentations(black, 10, generator).tolist() == [0]
    assert len(choose_augmentations(random_pairs(0, 10, 4), 30, generator)) == 31
    assert choose_augmentations(black, 0, generator).tolist() == [0]


# ------------------------------------------------------------------------------------------ determinism


def test_the_result_does_not_depend_on_workers_and_part_sizes(built, tmp_path, monkeypatch):
    expected = contents(built)
    assert contents(build(tmp_path / "two", "--workers", "2")) == expected
    monkeypatch.setattr(build_arc_dataset, "_PART_EXAMPLES", 3)
    assert contents(build(tmp_path / "parts")) == expected


def test_the_seed_determines_order_augmentations_and_shifts(built, tmp_path):
    other = build(tmp_path / "other", "--seed", "7")
    assert read_identifiers(other) != read_identifiers(built)
    assert sorted(n for n in read_identifiers(other) if "|" not in n) == sorted(
        n for n in read_identifiers(built) if "|" not in n
    )
    assert (other / "train" / "all__inputs.npy").read_bytes() != (
        built / "train" / "all__inputs.npy"
    ).read_bytes()


def test_both_spellings_of_options_work_as_a_script_and_as_a_module(tmp_path):
    words = (
        f"--input_file_prefix {PREFIX} --subsets training evaluation --test_set_name evaluation --num_aug=1 "
        "--puzzle_identifiers_start 3 --seed 5 --workers 1 --output_dir"
    ).split()
    for start in (["dataset/build_arc_dataset.py"], ["-m", "dataset.build_arc_dataset"]):
        folder = tmp_path / start[-1].replace("/", "_")
        run = subprocess.run(
            [sys.executable, *start, *words, folder], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
    one, other = (contents(folder) for folder in tmp_path.iterdir())
    assert one == other


def test_defaults_are_the_published_ones():
    options = parse_options(
        ["--input-file-prefix", "x", "--output-dir", "y", "--subsets", "a", "--test-set-name", "a"]
    )
    assert (options.seed, options.num_aug, options.puzzle_identifiers_start) == (42, 1000, 1)
    assert (options.store, options.test_set_name2) == ("full", None)


# ------------------------------------------------------------------------------------------ options


def test_identifiers_start_at_the_given_number(tmp_path, built):
    shifted = build(tmp_path / "shifted", "--puzzle-identifiers-start", "100")
    assert read_identifiers(shifted) == ["<blank>"] * 99 + read_identifiers(built)
    metadata = open_split(shifted, "train").metadata
    assert metadata.num_puzzle_identifiers == 99 + open_split(built, "train").metadata.num_puzzle_identifiers
    first = open_split(shifted, "train").sets["all"].puzzle_identifiers
    assert np.array_equal(first, open_split(built, "train").sets["all"].puzzle_identifiers + 99)


def test_a_second_test_subset_is_in_the_test_split(tmp_path):
    folder = build(tmp_path / "two", "--test-set-name2", "concept")
    expected = [
        json.loads(Path(f"{PREFIX}_{s}_challenges.json").read_text()) for s in ("evaluation", "concept")
    ]
    assert set(json.loads((folder / "test_puzzles.json").read_text())) == {*expected[0], *expected[1]}


def test_unknown_answers_are_0_in_the_raw_tasks_and_recorded(tmp_path, capsys):
    questions = {"known": task(([[1]], [[2]]), [[3]]), "unknown": task(([[1, 2]], [[2]]), [[3]])}
    prefix = write_tasks(tmp_path, "evaluation", questions, {"known": [[[0]]]})
    folder = build(tmp_path / "built", subsets="evaluation", prefix=prefix)
    assert open_split(folder, "test").metadata.extra["unknown_answers"] == {"unknown": [0]}
    outputs = {
        k: p["test"][0]["output"] for k, p in json.loads((folder / "test_puzzles.json").read_text()).items()
    }
    assert outputs == {"known": [[0]], "unknown": [[0]]}
    note = "1 tasks of evaluation lack answers to 1 test inputs, which are submitted, but not scored"
    assert note in capsys.readouterr().out


def test_two_tasks_with_the_same_name_are_rejected_unless_they_share_a_pair(tmp_path, capsys):
    one, other = task(([[1, 2]], [[2]]), [[3]]), task(([[5, 6]], [[6]]), [[7]])
    for subset, raw in (("training", one), ("evaluation", other)):
        prefix = write_tasks(tmp_path, subset, {"1": raw})
    with pytest.raises(SystemExit):
        build(tmp_path / "built", subsets="training evaluation", prefix=prefix)
    assert (
        "task 1 of subset evaluation has no pair in common with task 1 of subset training"
        in capsys.readouterr().err
    )
    other["train"].append(one["train"][0])
    write_tasks(tmp_path, "evaluation", {"1": other})
    assert validate(build(tmp_path / "built", subsets="training evaluation", prefix=prefix)) == []


@pytest.mark.parametrize("store", ["full", "lazy"])
def test_an_unknown_answer_only_changes_the_label_to_ignored(tmp_path, store):
    """Compare with the same tasks with [[0]] as true answer: equal inputs, names and raw tasks, different labels."""
    pair, tests = {"input": [[1, 2]], "output": [[2, 3]]}, [{"input": [[3]]}, {"input": [[4, 5]]}]
    rows, others = {}, {}
    for kind, answers in (("unknown", [[[9, 9]], None]), ("known", [[[9, 9]], [[0]]])):
        (tmp_path / kind).mkdir()
        for subset in ("training", "evaluation"):
            tasks = {f"{subset}{number}": {"train": [pair], "test": tests} for number in range(2)}
            prefix = write_tasks(tmp_path / kind, subset, tasks, dict.fromkeys(tasks, answers))
        folder = tmp_path / f"{kind}_built"
        build(folder, "--store", store, subsets="training evaluation", prefix=prefix)
        assert validate(folder) == []
        rows[kind] = {split: open_split(folder, split).sets["all"].read(slice(None)) for split in SPLITS}
        others[kind] = read_identifiers(folder), (folder / "test_puzzles.json").read_text()
    assert others["unknown"] == others["known"]
    for split in SPLITS:
        (inputs, labels), (same_inputs, known_labels) = rows["unknown"][split], rows["known"][split]
        assert np.array_equal(inputs, same_inputs)
        is_placeholder = (known_labels > 1).sum(1) == 1
        assert is_placeholder.sum() >= 4
        assert np.array_equal(labels, np.where(is_placeholder[:, None], 0, known_labels))


def test_a_task_in_two_subsets_has_one_identifier_and_leakage_is_reported(tmp_path, capsys):
    tasks = {"same": task(([[1, 2]], [[2]]), [[3]])}
    for subset in ("training", "evaluation"):
        prefix = write_tasks(tmp_path, subset, tasks, {"same": [[[4]]]})
    for store in ("full", "lazy"):
        folder = build(tmp_path / store, "--store", store, subsets="training evaluation", prefix=prefix)
        assert "TEST PAIRS ARE IN TRAIN" in capsys.readouterr().out
        assert validate(folder) == []
        names = read_identifiers(folder)
        assert len(set(names)) == len(names)
        train, test = (open_split(folder, split).sets["all"] for split in ("train", "test"))
        assert names[train.puzzle_identifiers[train.group_indices[1]]] == "same"
        assert train.puzzle_identifiers[train.group_indices[1]] == train.puzzle_identifiers[0] == 1
        assert np.array_equal(test.puzzle_identifiers, train.puzzle_identifiers[train.group_indices[1] :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-set-name", "other"], "--test-set-name is 'other', but must be one of --subsets: training"),
        (["--test-set-name2", "other"], "--test-set-name2 is 'other'"),
        (["--subsets", "training", "evaluation", "training"], "--subsets names training twice"),
        (["--num-augs", "3"], "unknown option --num-augs; did you mean --num-aug"),
        (["--num-aug", "-1"], "too small"),
        (["--puzzle-identifiers-start", "0"], "too small"),
        (["--store", "compact"], "compact"),
        (["--subsets", "training", "missing", "evaluation"], "subset 'missing': there is neither"),
    ],
)
def test_wrong_options_give_one_line_and_exit_code_2(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit_:
        build(tmp_path / "built", *options)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_data_leaves_an_existing_dataset_unchanged(tmp_path, capsys):
    folder = build(tmp_path / "built")
    before = contents(folder)
    prefix = write_tasks(tmp_path, "evaluation", {"bad": task(([[1, 2], [3]], [[2]]), [[3]])})
    for store in ("full", "lazy"):
        with pytest.raises(SystemExit):
            build(folder, "--store", store, subsets="evaluation", prefix=prefix)
        error = capsys.readouterr().err
        assert "own_evaluation_challenges.json: task bad, train pair 0, input: row 1 has 1 cells" in error
        assert contents(folder) == before


def test_each_store_replaces_the_other_without_leftovers(tmp_path):
    full = contents(build(tmp_path / "full"))
    lazy = contents(build(tmp_path / "lazy", "--store", "lazy"))
    changing = build(tmp_path / "changing")
    assert contents(build(changing, "--store", "lazy")) == lazy
    assert contents(build(changing)) == full
