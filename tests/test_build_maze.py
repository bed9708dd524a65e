"""Build maze datasets end to end: sources, options, and errors for wrong data and options."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset.augment import dihedral
from dataset.build_maze_dataset import main, parse_options
from dataset.families.maze.rules import encode, judge, symmetry_key
from dataset.format import open_split, validate

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(__file__).parent / "data" / "maze"
HEADER = "source,question,answer,rating"
# 3x3 mazes that are not images of each other; the last has two shortest paths.
GOOD = [("S ## #  G", "So##o# oG"), ("S  ## G  ", "Soo##oGoo"), ("S   #   G", "S  o# ooG")]


def table(folder: Path, split: str, rows: list[tuple[str, str]], header: str = HEADER) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.csv").open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(("made up", question, answer, "") for question, answer in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def build(*arguments) -> None:
    main([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build_error(capsys, *arguments) -> str:
    """Return the error that the command prints for these arguments."""
    with pytest.raises(SystemExit) as stopped:
        build(*arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.fixture
def source(tmp_path) -> Path:
    table(tmp_path / "source", "train", GOOD[:2])
    table(tmp_path / "source", "test", GOOD[2:])
    return tmp_path / "source"


# Output


def test_tables_become_tokens_in_file_order(tmp_path):
    build("--source-csv", SAMPLES, "--output-dir", tmp_path / "out")
    assert validate(tmp_path / "out") == []
    for name in ("train", "test"):
        split, rows = open_split(tmp_path / "out", name), read_csv(SAMPLES / f"{name}.csv")
        examples = split.sets["all"]
        assert np.array_equal(examples.inputs, [encode(row["question"]) for row in rows])
        assert np.array_equal(examples.labels, [encode(row["answer"]) for row in rows])
        assert not examples.puzzle_identifiers.any()
        assert split.metadata.total_groups == split.metadata.total_puzzles == len(rows)
        assert (split.metadata.vocab_size, split.metadata.seq_len, split.metadata.ignore_label_id) == (
            6,
            900,
            0,
        )
    assert json.loads((tmp_path / "out" / "identifiers.json").read_text()) == ["<blank>"]


def test_the_length_of_the_shortest_path_is_recorded_as_difficulty_of_test_mazes(tmp_path, source):
    build("--source-csv", source, "--output-dir", tmp_path / "out")
    assert open_split(tmp_path / "out", "test").sets["all"].difficulty.tolist() == [4]
    assert open_split(tmp_path / "out", "train").sets["all"].difficulty is None


def test_aug_adds_the_eight_images_of_train_mazes_only(tmp_path):
    build("--source-csv", SAMPLES, "--output-dir", tmp_path / "out", "--aug")
    assert validate(tmp_path / "out") == []
    train, rows = open_split(tmp_path / "out", "train"), read_csv(SAMPLES / "train.csv")
    assert train.metadata.total_groups == 12
    assert train.metadata.total_puzzles == 96
    examples = train.sets["all"]
    for index, row in enumerate(rows):
        for transform in range(8):
            for tokens, text in ((examples.inputs, row["question"]), (examples.labels, row["answer"])):
                expected = dihedral(encode(text).reshape(30, 30), transform)
                assert np.array_equal(tokens[index * 8 + transform].reshape(30, 30), expected)
    assert len(open_split(tmp_path / "out", "test").sets["all"].inputs) == 6


def test_a_subsample_is_drawn_by_the_seed_and_its_rows_are_recorded(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build("--source-csv", SAMPLES, "--output-dir", tmp_path / name, "--subsample-size", 5, "--seed", seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != files_of(tmp_path / "c")
    rows = np.load(tmp_path / "a" / "train" / "source_rows.npy")
    assert len(set(rows.tolist())) == 5
    texts = read_csv(SAMPLES / "train.csv")
    expected = [encode(texts[row]["question"]) for row in rows]
    train = open_split(tmp_path / "a", "train")
    assert np.array_equal(train.sets["all"].inputs, expected)
    assert train.metadata.extra["source_rows_sha256"] == hashlib.sha256(rows.tobytes()).hexdigest()
    assert len(open_split(tmp_path / "a", "test").sets["all"].inputs) == 6  # the test split is not subsampled


def test_the_dataset_records_its_source(tmp_path, source):
    build("--source-csv", source, "--output-dir", tmp_path / "out", "--aug", "--seed", 3)
    extra = open_split(tmp_path / "out", "train").metadata.extra
    assert (extra["family"], extra["grid_shape"], extra["builder"]) == ("maze", [3, 3], "build_maze_dataset")
    assert (extra["source"], extra["seed"], extra["options"]["aug"]) == ("csv", 3, True)
    assert extra["options"]["source_csv"] == str(source)


def test_test_mazes_that_occur_in_train_are_kept_and_counted(tmp_path, capsys):
    turned = tuple(
        "".join("# SGo"[t - 1] for t in dihedral(encode(s).reshape(3, 3), 1).ravel()) for s in GOOD[0]
    )
    table(tmp_path / "source", "train", GOOD[:2])
    table(tmp_path / "source", "test", [GOOD[2], turned])
    build("--source-csv", tmp_path / "source", "--output-dir", tmp_path / "out")
    assert "1 test mazes occur in train" in capsys.readouterr().out
    test = open_split(tmp_path / "out", "test")
    assert test.metadata.extra["overlap_of_test_with_train"] == {"equivalent_puzzles": 1}
    assert np.array_equal(test.sets["all"].inputs[1], encode(turned[0]))


def test_answers_longer_than_the_shortest_path_are_kept_and_counted(tmp_path, source, capsys):
    table(source, "test", [("S     G  ", "Soo  oGoo")])
    build("--source-csv", source, "--output-dir", tmp_path / "out")
    assert "1 of the test answers are not shortest paths" in capsys.readouterr().out
    assert open_split(tmp_path / "out", "test").sets["all"].labels[0].tolist() == encode("Soo  oGoo").tolist()


def test_generated_datasets_are_valid_and_do_not_leak(tmp_path):
    build(
        "--generate",
        30,
        "--test-size",
        12,
        "--size",
        7,
        "--aug",
        "--seed",
        4,
        "--output-dir",
        tmp_path / "out",
    )
    assert validate(tmp_path / "out") == []
    train, test = (open_split(tmp_path / "out", name) for name in ("train", "test"))
    assert (train.metadata.total_groups, train.metadata.total_puzzles, test.metadata.total_groups) == (
        30,
        240,
        12,
    )
    keys = []
    for split in (train, test):
        examples = split.sets["all"]
        _, optimal = judge(examples.inputs, examples.labels, (7, 7))
        assert optimal.all()
        keys.append({symmetry_key(question.reshape(7, 7)) for question in examples.inputs})
    assert [len(of_split) for of_split in keys] == [30, 12]
    assert not keys[0] & keys[1]
    assert train.metadata.extra["options"]["min_path"] < test.sets["all"].difficulty.min()


def test_the_threshold_is_respected_and_workers_do_not_matter(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        build(
            *(
                "--generate",
                40,
                "--size",
                6,
                "--min-path",
                9,
                "--workers",
                workers,
                "--output-dir",
                tmp_path / name,
            )
        )
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    difficulty = open_split(tmp_path / "one", "test").sets["all"].difficulty
    assert len(difficulty) == 4
    assert difficulty.min() >= 10


@pytest.mark.parametrize(
    ("size", "train_size", "test_size", "steps"),
    [(30, 6, 6, (100, 140)), (9, 30, 30, (24, 33)), (4, 40, 40, (6, 8))],
)
def test_perfect_mazes_are_unique_and_have_one_path_of_the_default_length(
    size, train_size, test_size, steps, tmp_path
):
    options = ("--size", size, "--generate", train_size, "--test-size", test_size, "--workers", 1)
    build("--perfect", *options, "--output-dir", tmp_path / "out")
    assert validate(tmp_path / "out") == []
    train, test = (open_split(tmp_path / "out", name) for name in ("train", "test"))
    keys = []
    for split, num_mazes in ((train, train_size), (test, test_size)):
        examples = split.sets["all"]
        assert len(examples.inputs) == num_mazes
        for tokens, label in zip(examples.inputs, examples.labels, strict=True):
            question = tokens.reshape(size, size)
            free = question != encode("#")[0]
            num_pairs = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
            assert free.sum() == num_pairs + 1  # at most one path between any two free cells ...
            reached, paths = walk(question)
            assert len(reached) == free.sum()  # ... and at least one
            assert len(paths) == 1
            assert steps[0] <= len(paths[0]) - 1 <= steps[1]
            expected = question.copy()
            for cell in paths[0][1:-1]:
                expected[cell] = encode("o")[0]
            assert np.array_equal(label.reshape(size, size), expected)
            keys.append(symmetry_key(question))
    assert len(set(keys)) == train_size + test_size
    extra = train.metadata.extra
    assert (extra["builder"], extra["source"]) == ("build_maze_dataset", "generate")
    recorded = {name: extra["options"][name] for name in ("perfect", "size", "min_path", "max_path")}
    assert recorded == {"perfect": True, "size": size, "min_path": steps[0] - 1, "max_path": steps[1]}


def walk(question: np.ndarray) -> tuple[set[tuple[int, int]], list[list[tuple[int, int]]]]:
    """Return the cells on simple paths from S, and those on the paths that end at G."""
    start = tuple(int(index) for index in np.argwhere(question == encode("S")[0])[0])
    reached, at_goal, paths = set(), [], [[start]]
    while paths:
        path = paths.pop()
        row, column = path[-1]
        reached.add(path[-1])
        if question[row, column] == encode("G")[0]:
            at_goal.append(path)
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = min(cell) >= 0 and max(cell) < len(question)
            if inside and question[cell] != encode("#")[0] and cell not in path:
                paths.append([*path, cell])
    return reached, at_goal


def test_perfect_mazes_depend_on_the_seed_and_not_on_the_number_of_workers(tmp_path):
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        options = ("--size", 8, "--generate", 40, "--seed", seed, "--workers", workers)
        build("--perfect", *options, "--output-dir", tmp_path / name)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    one, other = (open_split(tmp_path / name, "train").sets["all"].inputs for name in ("one", "other"))
    keys = [{symmetry_key(question.reshape(8, 8)) for question in inputs} for inputs in (one, other)]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize("perfect", [[], ["--perfect"]], ids=["with_cycles", "perfect"])
def test_paths_have_the_requested_lengths(perfect, tmp_path):
    options = ("--size", 8, "--generate", 1, "--test-size", 40, "--min-path", 13, "--max-path", 15)
    build(*perfect, *options, "--workers", 1, "--output-dir", tmp_path / "out")
    difficulty = open_split(tmp_path / "out", "test").sets["all"].difficulty
    assert set(difficulty.tolist()) == {14, 15}


def test_mazes_that_are_not_perfect_have_no_maximum_path_by_default(tmp_path):
    build("--generate", 1, "--size", 5, "--workers", 1, "--output-dir", tmp_path / "out")
    options = open_split(tmp_path / "out", "train").metadata.extra["options"]
    assert (options["perfect"], options["max_path"]) == (False, None)


def test_impossible_perfect_mazes_give_an_error_with_the_option_to_change(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dataset.families.maze.generate._MAX_PERFECT_TRIES", 100)
    options = ("--perfect", "--workers", 1, "--output-dir", tmp_path / "out")
    message = build_error(capsys, *options, "--generate", 3, "--size", 5, "--min-path", 22, "--max-path", 24)
    assert "no perfect 5x5 mazes with a shortest path longer than 22 steps and of at most 24" in message
    assert "lower --min-path (the default for this size is 9)" in message
    message = build_error(capsys, *options, "--generate", 9999, "--size", 3)
    assert "of 9999 different perfect 3x3 mazes" in message
    assert "generate fewer, or change --min-path or --max-path" in message


def test_a_generated_dataset_that_replaces_one_from_a_table_leaves_no_source_rows(tmp_path, source):
    build("--source-csv", source, "--output-dir", tmp_path / "out")
    assert (tmp_path / "out" / "train" / "source_rows.npy").exists()
    build("--generate", 3, "--size", 5, "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out" / "train" / "source_rows.npy").exists()


@pytest.mark.parametrize("command", [["dataset/build_maze_dataset.py"], ["-m", "dataset.build_maze_dataset"]])
def test_the_command_runs_by_its_path_and_as_a_module_in_both_spellings(command, tmp_path, source):
    arguments = ["--source_csv", source, "--output_dir", tmp_path / "out", "--subsample_size=1"]
    result = subprocess.run(
        [sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "train: 1 mazes" in result.stdout
    assert validate(tmp_path / "out") == []


def test_help_explains_that_the_published_readme_and_builder_disagree_about_aug(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "as in the published builder, although the published README mentions 8" in text
    assert not parse_options([]).aug


def test_the_defaults_are_the_published_ones():
    assert parse_options([]).output_dir == "data/maze-30x30-hard-1k"


# Errors


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD[:2], ("S ## x  G", "So##o# oG")], r"train\.csv line 4: its question has 'x' at character 6"),
        ([*GOOD[:2], ("So##o# oG", "So##o# oG")], r"train\.csv line 4: its question has 'o' at character 2"),
        ([*GOOD[:2], ("S ## #  G", "So##o# oé")], r"train\.csv line 4: its answer has '.' at character 9"),
        ([GOOD[0], ("S ##S#  G", "So##S# oG")], r"train\.csv line 3: its question has 2 starts \(S\)"),
        ([GOOD[0], ("  ## #  G", "  ## #  G")], r"train\.csv line 3: its question has 0 starts \(S\)"),
        ([GOOD[0], ("S ## #G G", "So##o#GoG")], r"train\.csv line 3: its question has 2 goals \(G\)"),
        ([GOOD[0], ("S ## #   ", "So##o# o ")], r"train\.csv line 3: its question has 0 goals \(G\)"),
        ([GOOD[0], ("S ## # G", "So##o# oG")], r"train\.csv line 3: its question has 8 characters"),
        ([GOOD[0], ("S ## #  G", "So##o# o")], r"train\.csv line 3: its answer has 8 characters"),
        ([GOOD[0], ("S ## #  G", "So##o#ooG")], r"train\.csv line 3: .*not one path from S to G"),
        ([GOOD[0], ("S ## #  G", "So## #  G")], r"train\.csv line 3: .*not one path from S to G"),
        (
            [GOOD[0], ("S ## #  G", "Soo#o# oG")],
            r"train\.csv line 3: its answer has 'o' at character 3, but",
        ),
        ([("S  G  ", "SooG  ")], r"train\.csv line 2: a maze of 6 cells is not square"),
        ([], r"train\.csv has no row"),
    ],
)
def test_a_wrong_row_is_rejected_with_file_and_line(rows, message, tmp_path, source, capsys):
    table(source, "train", rows)
    assert re.search(message, build_error(capsys, "--source-csv", source, "--output-dir", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*/dataset.json"))


def test_wrong_test_rows_and_splits_of_different_sizes_are_rejected(tmp_path, source, capsys):
    table(source, "test", [GOOD[2], ("SS  #   G", "SS o# ooG")])
    message = build_error(capsys, "--source-csv", source, "--output-dir", tmp_path / "out")
    assert "test.csv line 3: its question has 2 starts (S)" in message
    table(source, "test", [("SG  ", "SG  ")])
    message = build_error(capsys, "--source-csv", source, "--output-dir", tmp_path / "out")
    assert "test.csv line 2: its question has 4 characters instead of 9" in message


def test_a_table_without_its_header_is_rejected(tmp_path, source, capsys):
    table(source, "train", GOOD[1:2], header="made up,S ## #  G,So##o# oG,")
    message = build_error(capsys, "--source-csv", source, "--output-dir", tmp_path / "out")
    assert "train.csv has no question column" in message


def test_a_missing_table_is_reported_by_name(tmp_path, source, capsys):
    (source / "test.csv").unlink()
    assert "test.csv does not exist" in build_error(
        capsys, "--source-csv", source, "--output-dir", tmp_path / "out"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", 6], "--size can only be used with --generate"),
        (["--test-size", 6], "--test-size can only be used with --generate"),
        (["--min-path", 6], "--min-path can only be used with --generate"),
        (["--max-path", 6], "--max-path can only be used with --generate"),
        (["--perfect"], "--perfect can only be used with --generate"),
        (["--perfect", "--source-csv", "."], "--perfect can only be used with --generate"),
        (["--workers", 2], "--workers can only be used with --generate"),
        (
            ["--generate", 3, "--max-path", 110],
            "no path has more than 110 (--min-path) and at most 110 (--max-path) steps: lower --min-path or raise",
        ),
        (
            ["--generate", 3, "--perfect", "--min-path", 140],
            "no path has more than 140 (--min-path) and at most 140 (--max-path) steps: lower --min-path or raise",
        ),
        (["--generate", 3, "--perfect", "--max-path", 0], "the minimum is 1"),
        (["--generate", 3, "--subsample-size", 2], "--subsample-size samples rows of a source"),
        (["--generate", 3, "--source-csv", "."], "not allowed with argument"),
        (["--generate", 0], "the minimum is 1"),
        (["--generate", 3, "--size", "big"], "'big' is not a whole number"),
        (["--agu"], "did you mean --aug"),
    ],
)
def test_options_without_effect_are_rejected(arguments, message, tmp_path, capsys):
    assert message in build_error(capsys, *arguments, "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_build_leaves_the_existing_dataset_unchanged(tmp_path, source, capsys):
    build("--source-csv", source, "--output-dir", tmp_path / "out")
    before = files_of(tmp_path / "out")
    table(source, "train", [("SS", "SS")])
    build_error(capsys, "--source-csv", source, "--output-dir", tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_without_the_hub_the_error_lists_alternatives(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    message = build_error(capsys, "--output-dir", tmp_path / "out")
    assert "train.csv of the dataset sapientinc/maze-30x30-hard-1k" in message
    assert "--source-csv DIR" in message
    assert "--generate N" in message


def test_the_named_dataset_is_downloaded_from_the_hub(tmp_path, source, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, name, **settings):
        asked.append((repo, name, settings["repo_type"]))
        return str(source / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    build("--source-repo", "someone/mazes", "--output-dir", tmp_path / "out")
    assert asked == [("someone/mazes", "train.csv", "dataset"), ("someone/mazes", "test.csv", "dataset")]
    extra = open_split(tmp_path / "out", "train").metadata.extra
    assert (extra["source"], extra["options"]["source_repo"]) == ("hub", "someone/mazes")
