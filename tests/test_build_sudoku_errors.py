"""Errors when building Sudoku datasets from wrong data or with wrong options."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from sudoku_builds import SAMPLES, SOLVED_4X4, UNIQUE_4X4, build_error, puzzle_list, puzzles_6x6, table

ROOT = Path(__file__).resolve().parents[1]


# --- wrong data ---


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(UNIQUE_4X4, SOLVED_4X4, ""), (UNIQUE_4X4[1:], SOLVED_4X4, "")],
            "line 3: its question has 15 characters",
        ),
        ([(UNIQUE_4X4, SOLVED_4X4[1:], "")], "line 2: its answer has 15 characters instead of 16"),
        ([(UNIQUE_4X4[:-1] + "5", SOLVED_4X4, "")], "line 2: its question has '5' at character 16"),
        ([(UNIQUE_4X4, SOLVED_4X4[:-1] + ".", "")], "line 2: its answer has '.' at character 16"),
        ([(UNIQUE_4X4, SOLVED_4X4[:-1] + "2", "")], "is not a solution: 2 occurs 2 times in row 4"),
        ([("2" + UNIQUE_4X4[1:], SOLVED_4X4, "")], "changes given cells of its question"),
        ([("." * 15, "1" * 15, "")], "15 cells do not form a square grid"),
        ([("." * 25, "1" * 25, "")], "no Sudoku grid has size 5"),
        ([], "train.csv has no row"),
    ],
)
def test_a_wrong_table_is_rejected_with_file_and_line(tmp_path, capsys, rows, message):
    table(tmp_path / "s", "train", rows)
    table(tmp_path / "s", "test", [(UNIQUE_4X4, SOLVED_4X4, "")])
    assert message in build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert not (tmp_path / "d").exists()


def test_an_error_prints_no_traceback_and_exits_with_2(tmp_path):
    path = puzzle_list(tmp_path / "list.txt", [UNIQUE_4X4, "." * 16])
    for start in (["dataset/build_sudoku_dataset.py"], ["-m", "dataset.build_sudoku_dataset"]):
        command = [sys.executable, *start, "--output-dir", str(tmp_path / "d"), "--source-csv", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {path} line 2: the puzzle")
        assert done.stderr.count("\n") == 1


def test_test_rows_must_have_the_grid_of_the_train_rows(tmp_path, capsys):
    table(tmp_path / "s", "train", [(UNIQUE_4X4, SOLVED_4X4, "")])
    table(tmp_path / "s", "test", [(*row, "") for row in puzzles_6x6(1)])
    message = build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert "test.csv line 2: its question has 36 characters instead of 16" in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([UNIQUE_4X4, "1" + "." * 15], f"line 2: the puzzle 1{'.' * 15} has more than one solution"),
        ([UNIQUE_4X4, "." * 16], "line 2: the puzzle has no given cell"),
        ([UNIQUE_4X4, "", "11" + "." * 14], "line 3: the puzzle 11.............. has no solution"),
        ([UNIQUE_4X4, UNIQUE_4X4[1:]], "line 2 has 15 characters instead of the 16 of a 4x4 grid"),
        ([UNIQUE_4X4, UNIQUE_4X4[:-1] + "x"], "line 2 has 'x' at character 16"),
        ([UNIQUE_4X4], "--test-size 1 leaves no train puzzles:"),
        (["", ""], "holds no puzzle"),
    ],
)
def test_a_wrong_list_is_rejected_with_the_line(tmp_path, capsys, lines, message):
    path = puzzle_list(tmp_path / "list.txt", lines)
    assert message in build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source-csv", "nowhere"], "--source-csv nowhere does not exist"),
        (["--source-csv", "tests"], "train.csv does not exist: --source-csv takes a folder with"),
        (["--source-csv", "tests", "--generate", "3"], "not allowed with argument"),
        (["--source-repo", "a/b", "--generate", "3"], "not allowed with argument"),
        (
            ["--source-csv", "tests", "--test-size", "3"],
            "--test-size can only be used with --generate or --source-csv FILE",
        ),
        (["--generate", "3", "--subsample-size", "3"], "--subsample-size can only be used with a source"),
        (["--generate", "3", "--min_difficulty", "3"], "--min-difficulty can only be used with rated tables"),
        (["--source-csv", "tests", "--clues", "3"], "--clues can only be used with --generate"),
        (["--source-csv", "tests", "--minimal"], "--minimal can only be used with --generate"),
        (["--generate", "3", "--size", "7"], "no Sudoku grid has size 7: it must be one of 4, 6"),
        (["--generate", "3", "--box-shape", "2by3"], "box shape '2by3' is not ROWSxCOLUMNS"),
        (["--generate", "3", "--box-shape", "2x3", "--size", "9"], "means 6x6 grids, but --size is 9"),
        (["--generate", "3", "--size", "6", "--clues", "36"], "--clues 36 leaves nothing to solve"),
        (["--generate", "0"], "0 is too small: the minimum is 1"),
        (["--num-augs", "3"], "unknown option --num-augs; did you mean --num-aug?"),
        (["--seed", "-1"], "-1 is too small"),
        (["--generate", "5", "--size", "25"], "25x25 puzzles cannot be generated, only sizes up to 16x16"),
    ],
)
def test_incompatible_options_are_rejected(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert message in build_error(capsys, "--output-dir", tmp_path / "d", *options)
    assert not (tmp_path / "d").exists()


def test_a_size_that_contradicts_the_source_is_rejected(tmp_path, capsys):
    for options, message in (
        (["--size", "6"], "have 81 cells, but --size means 36"),
        (["--box-shape", "2x2"], "have 81 cells, but --box-shape means 16"),
    ):
        assert message in build_error(
            capsys, "--output-dir", tmp_path / "d", "--source-csv", SAMPLES, *options
        )


def test_a_table_without_header_or_rating_is_rejected(tmp_path, capsys):
    shutil.copytree(SAMPLES, tmp_path / "s")
    arguments = ("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    message = build_error(capsys, *arguments, "--min-difficulty", 1)
    assert "train.csv line 2 has no rating, which --min-difficulty needs" in message
    lines = (SAMPLES / "test.csv").read_text().splitlines(keepends=True)
    (tmp_path / "s" / "test.csv").write_text("".join(lines[1:]))
    assert "test.csv has no question column" in build_error(capsys, *arguments)


def test_an_unreachable_hub_gives_one_readable_line(tmp_path, monkeypatch, capsys):
    def download(*arguments, **settings):
        raise ConnectionError("Temporary failure in name resolution")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    message = build_error(capsys, "--output-dir", tmp_path / "d")
    assert "sapientinc/sudoku-extreme" in message
    assert "--source-csv" in message
    assert "--generate" in message
