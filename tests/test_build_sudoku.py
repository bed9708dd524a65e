"""Building Sudoku datasets end to end: sources, options, and how wrong data and options are refused."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from dataset.build_sudoku_dataset import BUILDER_VERSION, main, parse_options
from dataset.format import open_split, read_identifiers, validate
from dataset.sudoku import BoxShape, format_grid, is_solution, to_values
from dataset.sudoku_batch import solve_batch
from dataset.sudoku_generate import PuzzleSpec, generate_split
from dataset.sudoku_hash import invariant_hashes

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(__file__).parent / "data" / "sudoku"
HEADER = "source,question,answer,rating"
SOLVED_4X4 = "1234341221434321"
UNIQUE_4X4 = "1234" + "341." + "21.." + "...."
NINE = BoxShape(3, 3)


def table(folder: Path, split: str, rows: list[tuple], header: str = HEADER) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.csv").open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(("made up", *row) for row in rows)


def puzzles_6x6(number: int, box: str = "2x3") -> list[tuple[str, str]]:
    made = generate_split(PuzzleSpec(BoxShape.parse(box), 20), number, seed=3, split=0, workers=1)
    return [(format_grid(p), format_grid(s)) for p, s in zip(made.puzzles, made.solutions, strict=True)]


def build(*arguments) -> None:
    """The builder in this process, on one worker."""
    main([str(argument) for argument in (*arguments, "--workers", 1)])


def refused(capsys, *arguments) -> str:
    """The message of a build that must fail: one line, exit status 2."""
    with pytest.raises(SystemExit) as exit_status:
        build(*arguments)
    assert exit_status.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def read(folder: Path, split: str):
    opened = open_split(folder, split)
    return opened.metadata, opened.sets["all"]


def values(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    _, examples = read(folder, split)
    return to_values(examples.inputs), to_values(examples.labels)


def files_of(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def texts(grids: np.ndarray) -> list[str]:
    return [format_grid(grid) for grid in grids]


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
    assert "0 occur in train, 0 up to symmetry, 0 by their solution" in done.stdout
    assert validate(tmp_path / "d") == []


def test_everything_of_a_table_is_used_in_order_and_as_it_is(tmp_path):
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


def test_unrated_test_puzzles_get_the_guesses_they_take(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["difficulty"] == "guesses"
    puzzles = to_values(examples.inputs)
    assert examples.difficulty.tolist() == solve_batch(puzzles, NINE).guesses.tolist()
    assert read(tmp_path / "d", "train")[1].difficulty is None


def test_what_was_chosen_and_how_is_recorded(tmp_path):
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
    assert extra["overlap_of_test_with_train"] == {"puzzles": 0, "solutions": 0, "equivalent_puzzles": 0}
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


def test_a_seed_repeats_a_dataset_exactly_and_another_gives_another(tmp_path):
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


def test_rows_below_a_difficulty_are_left_out_of_both_splits(tmp_path):
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


def test_overlap_is_reported_and_left_as_it_is(tmp_path, capsys):
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
    assert "1 occur in train, 2 up to symmetry, 1 by their solution" in capsys.readouterr().out
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["overlap_of_test_with_train"] == {
        "puzzles": 1,
        "solutions": 1,
        "equivalent_puzzles": 2,
    }
    assert examples.num_examples == 3


def test_fewer_rows_than_asked_for_are_said(tmp_path, capsys):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--subsample-size", 9)
    assert "there are only 8 train puzzles, all are used" in capsys.readouterr().out


def test_ambiguous_test_puzzles_of_a_table_are_counted(tmp_path, capsys):
    table(tmp_path / "s", "train", [(UNIQUE_4X4, SOLVED_4X4, "")])
    table(tmp_path / "s", "test", [("." * 16, SOLVED_4X4, ""), (UNIQUE_4X4, SOLVED_4X4, "")])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert "1 of 2 test puzzles have more than one solution" in capsys.readouterr().out


def test_the_hub_is_the_source_when_none_is_named(tmp_path, monkeypatch):
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


def puzzle_list(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


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
    # Rows are lines of the file, the blank one counted.
    lines.insert(4, "")
    recorded = np.concatenate(
        [np.load(tmp_path / "d" / split / "source_rows.npy") for split in ("train", "test")]
    )
    assert [lines[row].replace("0", ".") for row in recorded] == found


def test_a_tenth_of_a_list_is_the_test_split_unless_told_otherwise(tmp_path):
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


# --- generated ---


def test_generated_splits_are_complete_unique_and_apart(tmp_path):
    arguments = ("--generate", 60, "--test-size", 40, "--size", 6, "--clues", 14, "--num-aug", 20)
    build("--output-dir", tmp_path / "d", *arguments)
    assert validate(tmp_path / "d") == []
    shape = BoxShape(2, 3)
    (train, train_solutions), (test, test_solutions) = (values(tmp_path / "d", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (60 * 21, 40)
    assert (np.count_nonzero(np.concatenate([train, test]), axis=1) <= 14).all()
    solved = solve_batch(np.concatenate([train[::21], test]), shape)
    assert (solved.num_solutions == 1).all()
    assert (solved.solutions == np.concatenate([train_solutions[::21], test_solutions])).all()
    train_hashes = set(invariant_hashes(train, train_solutions, shape).tolist())
    test_hashes = set(invariant_hashes(test, test_solutions, shape).tolist())
    assert len(train_hashes) == 60
    assert len(test_hashes) == 40
    assert not train_hashes & test_hashes
    assert not {*texts(train_solutions)} & {*texts(test_solutions)}
    metadata, examples = read(tmp_path / "d", "test")
    assert examples.difficulty.tolist() == solved.guesses[60:].tolist()
    assert metadata.extra["options"]["clues"] == 14
    assert not (tmp_path / "d" / "train" / "source_rows.npy").exists()


def test_no_4x4_puzzle_is_in_both_splits_not_even_as_a_copy(tmp_path):
    # So many copies of so few puzzles that without drawing again thousands of them would be test puzzles.
    build(
        "--output-dir", tmp_path / "d", "--generate", 200, "--test-size", 200, "--size", 4, "--num-aug", 100
    )
    train, test = (texts(values(tmp_path / "d", split)[0]) for split in ("train", "test"))
    assert len({*train[::101]}) == 200
    assert len({*test}) == 200
    assert not {*train} & {*test}
    hashes = [
        invariant_hashes(*values(tmp_path / "d", split), BoxShape(2, 2)).tolist()
        for split in ("train", "test")
    ]
    assert {*hashes[0]} & {*hashes[1]}  # in equivalent form they are


def test_copies_never_have_the_solution_of_a_test_puzzle(tmp_path, monkeypatch):
    import dataset.build_sudoku_dataset as builder

    options = ("--generate", 3, "--test-size", 5, "--size", 6, "--num-aug", 400)
    secret = []
    leaks = builder.leaks

    def first_copies_are_test_solutions(splits):
        # As if test solutions happened to be those of copies: the first ones that the unhindered build draws.
        grids = builder.with_copies(
            np.random.default_rng([0, builder.AUGMENT_STREAM]),
            splits.train.puzzles,
            splits.train.solutions,
            400,
            splits.shape,
        )[1]
        splits.test.solutions[:] = grids[[1, 2, 500, 900, 1000]]
        secret.extend(texts(splits.test.solutions))
        return leaks(splits)

    monkeypatch.setattr(builder, "leaks", first_copies_are_test_solutions)
    build("--output-dir", tmp_path / "d", *options)
    assert len(secret) == 5
    assert not {*texts(values(tmp_path / "d", "train")[1])} & {*secret}


@pytest.mark.parametrize("size", ["4", "6"])
def test_the_number_of_workers_does_not_matter(tmp_path, size):
    for workers in (1, 3):
        arguments = (
            "--output-dir",
            tmp_path / f"{workers}",
            "--generate",
            150,
            "--size",
            size,
            "--num-aug",
            2,
        )
        main([str(argument) for argument in (*arguments, "--workers", workers)])
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_workers_do_not_matter_for_tables_and_lists_either(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sudoku_splits._BATCH", 2)  # so that there is work for several
    for workers in (1, 3):
        for name, path in (("table", SAMPLES), ("list", SAMPLES / "hardest.txt")):
            arguments = ("--output-dir", tmp_path / f"{name}{workers}", "--source-csv", path)
            main([str(argument) for argument in (*arguments, "--workers", workers)])
    for name in ("table", "list"):
        assert files_of(tmp_path / f"{name}1") == files_of(tmp_path / f"{name}3")


def test_minimal_puzzles_are_minimal(tmp_path):
    build(
        "--output-dir", tmp_path / "d", "--generate", 4, "--test-size", 1, "--box-shape", "3x2", "--minimal"
    )
    shape = BoxShape(3, 2)
    puzzles, _ = values(tmp_path / "d", "train")
    assert read(tmp_path / "d", "train")[0].extra["box_shape"] == [3, 2]
    for puzzle in puzzles:
        fewer = np.tile(puzzle, (np.count_nonzero(puzzle), 1))
        fewer[np.arange(len(fewer)), np.flatnonzero(puzzle)] = 0
        assert (solve_batch(fewer, shape).num_solutions == 2).all()


def test_sixteen_by_sixteen_puzzles_are_generated(tmp_path):
    build("--output-dir", tmp_path / "d", "--generate", 2, "--test-size", 1, "--size", 16, "--clues", 150)
    metadata, examples = read(tmp_path / "d", "train")
    assert (metadata.seq_len, metadata.vocab_size) == (256, 18)
    assert is_solution(to_values(examples.labels), BoxShape(4, 4)).all()


# --- replacing ---


def test_a_dataset_is_replaced_by_a_new_build_completely(tmp_path):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    build("--output-dir", tmp_path / "d", "--generate", 5, "--size", 4)
    build("--output-dir", tmp_path / "fresh", "--generate", 5, "--size", 4)
    assert files_of(tmp_path / "d") == files_of(tmp_path / "fresh")


def test_a_build_that_fails_leaves_the_earlier_dataset_as_it_was(tmp_path, monkeypatch, capsys):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES)
    before = files_of(tmp_path / "d")

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("dataset.build_sudoku_dataset.add_test", full)
    assert "no space" in refused(
        capsys, "--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--num-aug", 9
    )
    assert files_of(tmp_path / "d") == before


def test_a_folder_with_other_things_is_not_written(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("...")
    message = refused(capsys, "--output-dir", tmp_path, "--source-csv", SAMPLES)
    assert "is not empty and holds no dataset" in message
    assert files_of(tmp_path).keys() == {"thesis.tex"}


# --- wrong data ---


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(UNIQUE_4X4, SOLVED_4X4, ""), (UNIQUE_4X4[1:], SOLVED_4X4, "")],
            "row 2: its question has 15 characters",
        ),
        ([(UNIQUE_4X4, SOLVED_4X4[1:], "")], "row 1: its answer has 15 characters instead of 16"),
        ([(UNIQUE_4X4[:-1] + "5", SOLVED_4X4, "")], "row 1: its question has '5' at character 16"),
        ([(UNIQUE_4X4, SOLVED_4X4[:-1] + ".", "")], "row 1: its answer has '.' at character 16"),
        ([(UNIQUE_4X4, SOLVED_4X4[:-1] + "2", "")], "is no solution: 2 occurs 2 times in row 4"),
        ([("2" + UNIQUE_4X4[1:], SOLVED_4X4, "")], "changes given cells of its question"),
        ([("." * 15, "1" * 15, "")], "15 cells are no square grid"),
        ([("." * 25, "1" * 25, "")], "no Sudoku grid has size 5"),
        ([], "train.csv has no row"),
    ],
)
def test_a_wrong_table_is_refused_by_file_and_row(tmp_path, capsys, rows, message):
    table(tmp_path / "s", "train", rows)
    table(tmp_path / "s", "test", [(UNIQUE_4X4, SOLVED_4X4, "")])
    assert message in refused(capsys, "--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert not (tmp_path / "d").exists()


def test_a_refusal_prints_no_traceback_and_exits_with_2(tmp_path):
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
    message = refused(capsys, "--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert "test.csv row 1: its question has 36 characters instead of 16" in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([UNIQUE_4X4, "." * 16], f"line 2: the puzzle {'.' * 16} has more than one solution"),
        ([UNIQUE_4X4, "", "11" + "." * 14], "line 3: the puzzle 11.............. has no solution"),
        ([UNIQUE_4X4, UNIQUE_4X4[1:]], "line 2 has 15 characters instead of the 16 of a 4x4 grid"),
        ([UNIQUE_4X4, UNIQUE_4X4[:-1] + "x"], "line 2 has 'x' at character 16"),
        ([UNIQUE_4X4], "--test-size 1 leaves none of the 1 puzzles in"),
        ([HEADER, f"a,{UNIQUE_4X4},{SOLVED_4X4},"], "has a header: a table with columns goes into a folder"),
        (["", ""], "holds no puzzle"),
    ],
)
def test_a_wrong_list_is_refused_by_line(tmp_path, capsys, lines, message):
    path = puzzle_list(tmp_path / "list.txt", lines)
    assert message in refused(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
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
            "--test-size goes only with --generate or --source-csv FILE",
        ),
        (["--generate", "3", "--subsample-size", "3"], "--subsample-size goes only with a source"),
        (["--generate", "3", "--min_difficulty", "3"], "--min-difficulty goes only with rated tables"),
        (["--source-csv", "tests", "--clues", "3"], "--clues goes only with --generate"),
        (["--source-csv", "tests", "--minimal"], "--minimal goes only with --generate"),
        (["--generate", "3", "--size", "7"], "no Sudoku grid has size 7: it must be one of 4, 6"),
        (["--generate", "3", "--box-shape", "2by3"], "box shape '2by3' is not ROWSxCOLUMNS"),
        (["--generate", "3", "--box-shape", "2x3", "--size", "9"], "makes 6x6 grids, but --size says 9"),
        (["--generate", "3", "--size", "6", "--clues", "36"], "--clues 36 leaves nothing to solve"),
        (["--generate", "0"], "0 is too small: the least is 1"),
        (["--num-augs", "3"], "unknown option --num-augs; did you mean --num-aug?"),
        (["--seed", "-1"], "-1 is too small"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert message in refused(capsys, "--output-dir", tmp_path / "d", *options)
    assert not (tmp_path / "d").exists()


def test_a_size_that_contradicts_the_source_is_refused(tmp_path, capsys):
    for options, message in (
        (["--size", "6"], "grids have 81 cells, but --size asks for 36"),
        (["--box-shape", "2x2"], "grids have 81 cells, but --box-shape asks for 16"),
    ):
        assert message in refused(capsys, "--output-dir", tmp_path / "d", "--source-csv", SAMPLES, *options)


def test_a_table_without_header_or_rating_is_refused(tmp_path, capsys):
    shutil.copytree(SAMPLES, tmp_path / "s")
    arguments = ("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    message = refused(capsys, *arguments, "--min-difficulty", 1)
    assert "train.csv row 1 has no rating, which --min-difficulty needs" in message
    lines = (SAMPLES / "test.csv").read_text().splitlines(keepends=True)
    (tmp_path / "s" / "test.csv").write_text("".join(lines[1:]))
    assert "test.csv has no column source, question" in refused(capsys, *arguments)


def test_a_hub_that_cannot_be_reached_is_one_readable_line(tmp_path, monkeypatch, capsys):
    def download(*arguments, **settings):
        raise ConnectionError("Temporary failure in name resolution")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    message = refused(capsys, "--output-dir", tmp_path / "d")
    assert "sapientinc/sudoku-extreme" in message
    assert "--source-csv" in message
    assert "--generate" in message


def test_what_is_recorded_names_no_machine_or_time(tmp_path):
    build("--output-dir", tmp_path / "d", "--generate", 3, "--size", 4)
    recorded = read(tmp_path / "d", "train")[0].extra
    assert not {"workers", "output_dir", "time"} & {*recorded, *recorded["options"]}
