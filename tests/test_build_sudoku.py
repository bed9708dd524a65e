"""Build Sudoku datasets end to end: tables and lists of puzzles, options, and replacing a dataset."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from sudoku_builds import (
    SAMPLES,
    SOLVED_4X4,
    UNIQUE_4X4,
    build,
    build_error,
    files_of,
    puzzle_list,
    puzzles_6x6,
    read,
    table,
    texts,
    values,
)

from dataset import report
from dataset.build_sudoku_dataset import BUILDER_VERSION, parse_options
from dataset.families.sudoku.batch import solve_batch
from dataset.families.sudoku.hashes import invariant_hashes
from dataset.families.sudoku.rules import BoxShape, is_solution, to_values
from dataset.format import read_identifiers, validate

ROOT = Path(__file__).resolve().parents[1]
NINE = BoxShape(3, 3)


def source(split: str, column: str) -> list[str]:
    with (SAMPLES / f"{split}.csv").open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


# --- tables ---


@pytest.mark.parametrize(
    "start", [["dataset/build_sudoku_dataset.py"], ["-m", "dataset.build_sudoku_dataset"]]
)
def test_the_published_command_runs_as_a_script_and_as_a_module(tmp_path, start):
    arguments = [
        "--output-dir",
        tmp_path / "d",
        "--subsample-size",
        5,
        "--num_aug",
        3,
        "--source-csv",
        SAMPLES,
    ]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "5 puzzles, 20 examples; test: 4 puzzles" in done.stdout
    assert "test puzzles that occur in train: 0, up to symmetry 0; test solutions: 0" in done.stdout
    assert validate(tmp_path / "d") == []


def test_all_rows_of_a_table_are_used_unchanged_and_in_order(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    for split, number in (("train", 8), ("test", 4)):
        puzzles, solutions = values(tmp_path / "d", split)
        assert texts(puzzles) == source(split, "question")
        assert texts(solutions) == source(split, "answer")
        metadata, examples = read(tmp_path / "d", split)
        assert (metadata.total_groups, metadata.total_puzzles, metadata.mean_puzzle_examples) == (
            number,
            number,
            1,
        )
        assert (metadata.vocab_size, metadata.seq_len, metadata.ignore_label_id) == (11, 81, 0)
        assert not examples.puzzle_identifiers.any()
        assert np.load(tmp_path / "d" / split / "source_rows.npy").tolist() == list(range(number))
    assert read_identifiers(tmp_path / "d") == ["<blank>"]


def test_unrated_test_puzzles_get_their_number_of_guesses(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["difficulty"] == "guesses"
    puzzles = to_values(examples.inputs)
    assert examples.difficulty.tolist() == solve_batch(puzzles, NINE).guesses.tolist()
    assert read(tmp_path / "d", "train")[1].difficulty is None


def test_the_sampled_rows_and_options_are_recorded(tmp_path):
    build(
        "--output_dir",
        tmp_path / "d",
        "--source_csv",
        SAMPLES,
        "--subsample_size",
        3,
        "--num-aug",
        2,
        "--seed",
        7,
    )
    metadata, _ = read(tmp_path / "d", "train")
    extra = metadata.extra
    assert (extra["family"], extra["grid_shape"], extra["box_shape"]) == ("sudoku", [9, 9], [3, 3])
    assert (extra["builder"], extra["builder_version"]) == ("build_sudoku_dataset", BUILDER_VERSION)
    assert (extra["source"], extra["seed"]) == ("csv", 7)
    assert extra["options"]["subsample_size"] == 3
    assert extra["options"]["num_aug"] == 2
    assert extra["overlap_of_test_with_train"] == {
        "puzzles": 0,
        "solutions": 0,
        "equivalent_puzzles": 0,
        "equivalent_solutions": 0,
    }
    assert (
        extra["source_sha256"]["train.csv"]
        == hashlib.sha256((SAMPLES / "train.csv").read_bytes()).hexdigest()
    )
    rows = np.load(tmp_path / "d" / "train" / extra["source_rows"])
    assert hashlib.sha256(rows.tobytes()).hexdigest() == extra["source_rows_sha256"]
    puzzles, _ = values(tmp_path / "d", "train")
    assert texts(puzzles[::3]) == [source("train", "question")[row] for row in rows]


def test_copies_follow_their_puzzle_and_the_test_split_has_none(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--num-aug", 30)
    metadata, examples = read(tmp_path / "d", "train")
    assert (metadata.total_groups, metadata.total_puzzles) == (8, 8 * 31)
    assert examples.group_indices.tolist() == list(range(0, 8 * 31 + 1, 31))
    puzzles, solutions = values(tmp_path / "d", "train")
    assert is_solution(solutions, NINE).all()
    assert ((puzzles == 0) | (puzzles == solutions)).all()
    hashes = invariant_hashes(puzzles, solutions, NINE).reshape(8, 31)
    assert (hashes == hashes[:, :1]).all()
    assert len({row.tobytes() for row in puzzles}) == 8 * 31
    assert len(values(tmp_path / "d", "test")[0]) == 4


def test_datasets_are_reproducible_by_seed(tmp_path):
    arguments = ("--source-csv", SAMPLES, "--subsample-size", 4, "--num-aug", 3)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build("--output-dir", tmp_path / name, *arguments, "--seed", seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert (
        files_of(tmp_path / "a")["train/all__inputs.npy"] != files_of(tmp_path / "c")["train/all__inputs.npy"]
    )


@pytest.mark.parametrize(
    ("options", "shape"), [([], (2, 3)), (["--size", 6], (2, 3)), (["--box-shape", "3x2"], (3, 2))]
)
def test_tables_of_any_grid_size_are_read(tmp_path, options, shape):
    rows = puzzles_6x6(4, "{}x{}".format(*shape))
    table(tmp_path / "s", "train", [(*row, "") for row in rows[:3]])
    table(tmp_path / "s", "test", [(*row, "") for row in rows[3:]])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s", *options)
    metadata, _ = read(tmp_path / "d", "train")
    assert metadata.extra["box_shape"] == list(shape)
    assert (metadata.seq_len, metadata.vocab_size) == (36, 8)


def test_rows_below_a_difficulty_are_skipped_in_both_splits(tmp_path):
    rows = puzzles_6x6(8)
    table(
        tmp_path / "s",
        "train",
        [(*row, rating) for row, rating in zip(rows[:5], (3, 9, 4, 0, 5), strict=True)],
    )
    table(tmp_path / "s", "test", [(*row, rating) for row, rating in zip(rows[5:], (4, 1, 30), strict=True)])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s", "--min_difficulty", 4)
    assert texts(values(tmp_path / "d", "train")[0]) == [rows[i][0] for i in (1, 2, 4)]
    assert np.load(tmp_path / "d" / "train" / "source_rows.npy").tolist() == [1, 2, 4]
    metadata, examples = read(tmp_path / "d", "test")
    assert examples.difficulty.tolist() == [4, 30]
    assert metadata.extra["difficulty"] == "rating"


def test_overlap_is_reported_but_not_removed(tmp_path, capsys):
    (puzzle, solution), other = puzzles_6x6(2)
    renamed = str.maketrans("123456", "234561")
    same = [
        (puzzle, solution, ""),
        (puzzle.translate(renamed), solution.translate(renamed), ""),
        (*other, ""),
    ]
    table(tmp_path / "s", "train", [(puzzle, solution, "")])
    table(tmp_path / "s", "test", same)
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert (
        "test puzzles that occur in train: 1, up to symmetry 2; test solutions: 1" in capsys.readouterr().out
    )
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["overlap_of_test_with_train"] == {
        "puzzles": 1,
        "solutions": 1,
        "equivalent_puzzles": 2,
        "equivalent_solutions": 2,
    }
    assert examples.num_examples == 3


def test_fewer_rows_than_requested_are_reported(tmp_path, capsys):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--subsample-size", 9)
    assert "there are only 8 train puzzles; using all of them" in capsys.readouterr().out


def test_puzzles_of_a_table_with_several_solutions_are_counted_in_both_splits(tmp_path, capsys):
    ambiguous = "1" + "." * 15
    table(tmp_path / "s", "train", [(UNIQUE_4X4, SOLVED_4X4, 1), (ambiguous, SOLVED_4X4, 2)])
    table(tmp_path / "s", "test", [(ambiguous, SOLVED_4X4, 3), (UNIQUE_4X4, SOLVED_4X4, 1)])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    printed = capsys.readouterr().out
    assert "1 of 2 train puzzles have more than one solution" in printed
    assert "1 of 2 test puzzles have more than one solution" in printed
    assert report.main([str(tmp_path / "d"), "--examples", "0"]) == 0
    assert capsys.readouterr().out.count("1 of 2 puzzles have more than one solution") == 2


def test_the_hub_is_the_default_source(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, repo_type):
        asked.append((repo, name))
        return str(SAMPLES / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    build("--output-dir", tmp_path / "d", "--subsample-size", 2)
    build("--output-dir", tmp_path / "e", "--source-repo", "me/mine")
    assert asked == [
        ("sapientinc/sudoku-extreme", "train.csv"),
        ("sapientinc/sudoku-extreme", "test.csv"),
        ("me/mine", "train.csv"),
        ("me/mine", "test.csv"),
    ]
    assert read(tmp_path / "d", "train")[0].extra["options"]["source_repo"] == "sapientinc/sudoku-extreme"


def test_defaults_are_the_published_ones():
    options = parse_options([])
    assert options.output_dir == "data/sudoku-extreme-full"
    assert (options.num_aug, options.subsample_size, options.min_difficulty) == (0, None, None)


# --- lists of puzzles ---


def test_a_list_is_solved_and_split(tmp_path):
    rows = puzzles_6x6(10)
    lines = [row[0].replace(".", "0") for row in rows]
    path = puzzle_list(tmp_path / "list.txt", [*lines[:4], "", *lines[4:]])
    build("--output-dir", tmp_path / "d", "--source-csv", path, "--test-size", 3, "--num-aug", 1)
    train, test = values(tmp_path / "d", "train"), values(tmp_path / "d", "test")
    solutions = dict(rows)
    found = texts(train[0][::2]) + texts(test[0])
    assert sorted(found) == sorted(solutions)
    assert texts(train[1][::2]) + texts(test[1]) == [solutions[puzzle] for puzzle in found]
    assert len(test[0]) == 3
    # Rows are lines of the file, including the blank one.
    lines.insert(4, "")
    recorded = np.concatenate(
        [np.load(tmp_path / "d" / split / "source_rows.npy") for split in ("train", "test")]
    )
    assert [lines[row].replace("0", ".") for row in recorded] == found


def test_a_tenth_of_a_list_is_the_test_split_by_default(tmp_path):
    path = puzzle_list(tmp_path / "list.csv", [row[0] for row in puzzles_6x6(25)])
    build("--output-dir", tmp_path / "d", "--source-csv", path, "--subsample-size", 7)
    assert len(values(tmp_path / "d", "test")[0]) == 2
    assert len(values(tmp_path / "d", "train")[0]) == 7


def test_nine_by_nine_lists_are_read_with_their_difficulty(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES / "hardest.txt", "--test-size", 4)
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["difficulty"] == "guesses"
    assert examples.difficulty.max() > 10
    assert is_solution(to_values(examples.labels), NINE).all()


# --- replacing ---


def test_a_new_build_replaces_a_dataset_completely(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    build("--output-dir", tmp_path / "d", "--generate", 5, "--size", 4)
    build("--output-dir", tmp_path / "fresh", "--generate", 5, "--size", 4)
    assert files_of(tmp_path / "d") == files_of(tmp_path / "fresh")


def test_a_failing_build_leaves_the_existing_dataset_unchanged(tmp_path, monkeypatch, capsys):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    before = files_of(tmp_path / "d")

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("dataset.build_sudoku_dataset.add_test", full)
    assert "no space" in build_error(
        capsys, "--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--num-aug", 9
    )
    assert files_of(tmp_path / "d") == before


def test_a_folder_with_other_files_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("...")
    message = build_error(capsys, "--output-dir", tmp_path, "--source-csv", SAMPLES)
    assert "is not empty and holds no dataset" in message
    assert files_of(tmp_path).keys() == {"thesis.tex"}


def test_puzzles_with_very_many_solutions_are_counted(tmp_path, capsys):
    puzzle, solution = source("train", "question")[0], source("train", "answer")[0]
    table(tmp_path / "s", "train", [(puzzle, solution, 1), ("." * 60 + solution[60:], solution, 1)])
    table(tmp_path / "s", "test", [(puzzle, solution, 1)])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert "1 of 2 train puzzles have more than one solution" in capsys.readouterr().out
