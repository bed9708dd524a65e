"""Builder options: both spellings, readable errors, and allowed output folders."""

from __future__ import annotations

import importlib
import json
import os

import pytest

from dataset.options import OptionParser, building_into, check_output_dir, whole_number
from utils.errors import UserError


def parser() -> OptionParser:
    options = OptionParser(prog="build")
    options.add_argument("--num-aug", type=whole_number(0), default=0)
    options.add_argument("--source-csv")
    options.add_argument("--minimal", action="store_true")
    return options


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num-aug", "3", "--source-csv", "a_b-c"],
        ["--num_aug", "3", "--source_csv", "a_b-c"],
        ["--num_aug=3", "--source-csv=a_b-c"],
    ],
)
def test_both_spellings_set_the_same_option(arguments):
    options = parser().parse_args(arguments)
    assert (options.num_aug, options.source_csv, options.minimal) == (3, "a_b-c", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-augs", "3"], "unknown option --num-augs; did you mean --num-aug?"),
        (["--num_ag=3"], "unknown option --num-ag; did you mean --num-aug?"),
        (["--num", "3"], "unknown option --num"),  # no abbreviations
        (["--zzz"], "valid ones are --help, --num-aug"),
        (["3"], "unexpected argument '3'"),
        (["--num-aug", "x"], "argument --num-aug: 'x' is not a whole number"),
        (["--num-aug", "-1"], "-1 is too small: the minimum is 0"),
        (["--num-aug"], "expected one argument"),
    ],
)
def test_wrong_options_are_rejected_with_a_message(arguments, message):
    with pytest.raises(UserError) as error:
        parser().parse_args(arguments)
    assert message in str(error.value)
    assert str(error.value).startswith("build: ")


def described(folder, **metadata) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(metadata))


def test_new_folders_empty_folders_and_datasets_of_the_family_may_be_written(tmp_path):
    assert check_output_dir(tmp_path / "new", "sudoku") == tmp_path / "new"
    assert not (tmp_path / "new").exists()
    check_output_dir(tmp_path, "sudoku")
    described(tmp_path / "old" / "train", family="sudoku")
    (tmp_path / "old" / "notes.txt").write_text("mine")
    check_output_dir(tmp_path / "old", "sudoku")
    described(tmp_path / "published" / "train", seq_len=81)  # older datasets name no family
    check_output_dir(tmp_path / "published", "sudoku")


def test_leftovers_of_a_killed_build_may_be_overwritten(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "all__inputs.npy.17-0123abcd.tmp").write_bytes(b"x")
    (tmp_path / "identifiers.json.17-0123abcd.tmp").write_bytes(b"x")
    (tmp_path / ".lock").write_text('{"pid": 17}')
    (tmp_path / "identifiers.json").write_text("[]")
    with building_into(tmp_path, "sudoku"):
        assert {path.name for path in tmp_path.rglob("*")} == {"train", "identifiers.json", ".lock"}
    assert not (tmp_path / ".lock").exists()


def test_a_build_that_writes_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), building_into(tmp_path / "a" / "b", "sudoku"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_only_one_build_at_a_time_writes_to_a_folder(tmp_path):
    with (
        building_into(tmp_path, "sudoku"),
        pytest.raises(
            UserError, match=rf"--output-dir={tmp_path}: another build .*process {os.getpid()} on "
        ),
        building_into(tmp_path, "sudoku"),
    ):
        pytest.fail("two builds at once")
    with building_into(tmp_path, "sudoku"):
        pass


def test_a_folder_with_other_files_is_rejected(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="is not empty and holds no dataset"):
        check_output_dir(tmp_path, "sudoku")
    with pytest.raises(UserError, match="is a file"):
        check_output_dir(tmp_path / "thesis.tex", "sudoku")


def test_a_dataset_of_another_family_is_rejected(tmp_path):
    described(tmp_path / "maze" / "test", family="maze")
    with pytest.raises(UserError, match="holds a dataset of the family maze"):
        check_output_dir(tmp_path / "maze", "sudoku")
    described(tmp_path / "arc" / "test")
    (tmp_path / "arc" / "test_puzzles.json").write_text("{}")
    with pytest.raises(UserError, match="holds a dataset of the family arc"):
        check_output_dir(tmp_path / "arc", "sudoku")


@pytest.mark.parametrize("builder", ["sudoku", "maze", "nqueens"])
def test_a_folder_that_cannot_be_created_gives_one_message(builder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    main = importlib.import_module(f"dataset.build_{builder}_dataset").main
    size = ["--size", "5" if builder == "maze" else "4"]
    with pytest.raises(SystemExit) as exit_:
        main(["--output-dir", str(tmp_path / "file" / "new"), "--generate", "2", "--test-size", "1", *size])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path}/file/new")
    assert "choose another --output-dir" in message


def test_help_shows_defaults_except_none():
    text = parser()
    text.add_argument("--seed", type=int, default=4, help="a seed")
    text.add_argument("--clues", type=int, help="most clues")
    text.add_argument("--copies", type=int, default=0, help="some copies")
    shown = " ".join(text.format_help().split())
    assert "a seed (default: 4)" in shown
    assert "some copies (default: 0)" in shown
    assert "None" not in shown
    assert "False" not in shown
