"""The dataset report: counts, validity, leakage, examples in the terminal and as a picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import report
from dataset.drawing.picture import grid_picture
from dataset.drawing.terminal import grid_lines
from dataset.families import family_of
from dataset.families.arc import grids as arc
from dataset.families.arc.comparison import unshifted
from dataset.families.maze import rules as maze
from dataset.families.sudoku import hashes
from dataset.families.sudoku import rules as sudoku
from dataset.families.sudoku.rules import BoxShape
from dataset.format import SplitWriter, open_split, write_identifiers
from dataset.leakage import leakage

ROOT = Path(__file__).resolve().parent.parent
BOX = BoxShape(2, 3)
SOLUTION = np.array([[(3 * (r % 2) + r // 2 + c) % 6 + 1 for c in range(6)] for r in range(6)]).ravel()


def sudokus(count, seed, givens=15):
    """Make puzzles with one of many solutions: the cyclic one with permuted digits, bands and rows."""
    rng = np.random.default_rng(seed)
    grids = []
    for _ in range(count):
        bands = [2 * band + rng.permutation(2) for band in rng.permutation(3)]
        grids.append(rng.permutation(6)[SOLUTION.reshape(6, 6)[np.concatenate(bands)] - 1].ravel() + 1)
    solutions = np.stack(grids)
    keep = rng.random(solutions.shape).argsort(axis=1) < givens
    return np.where(keep, solutions, 0), solutions


def write_split(folder, inputs, labels, *, vocab_size, copies=1, **options):
    groups = np.full(len(inputs) // copies, copies)
    with SplitWriter(folder, seq_len=inputs.shape[1], vocab_size=vocab_size, **options) as writer:
        writer.add_groups(inputs, labels, np.zeros(len(inputs), int), group_lengths=groups)
        writer.close(num_puzzle_identifiers=1)
    write_identifiers(folder.parent, ["<blank>"])


def write_sudoku(root, train, test, copies=1):
    extra = {"family": "sudoku", "grid_shape": [6, 6], "box_shape": [2, 3]}
    for split, (puzzles, solutions), count in (("train", train, copies), ("test", test, 1)):
        tokens = sudoku.to_tokens(puzzles), sudoku.to_tokens(solutions)
        write_split(root / split, *tokens, vocab_size=8, copies=count, extra=extra)
    return root


@pytest.fixture
def sudoku_dataset(tmp_path):
    return write_sudoku(tmp_path / "sudoku", sudokus(20, 1), sudokus(6, 2))


def overlaps(root):
    train, test = (open_split(root, split) for split in ("train", "test"))
    return {o.what: (o.count, o.total) for o in leakage(train, test, family_of(train.metadata))}


HALVES = (slice(0, 3), slice(3, 6))  # of a row: the cells of two boxes


def test_the_report_describes_the_dataset(sudoku_dataset, capsys):
    assert report.main([str(sudoku_dataset), "--examples", "1"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "train: sudoku, 6x6, boxes of 2x3",
        "20 examples of 20 puzzles in 20 groups",
        "6 examples of 6 puzzles in 6 groups",
        "seq_len 36, vocabulary 8 (pad 0, ignored label 0), 1 puzzle identifiers",
        f"inputs: 1='.' {100 * 21 / 36:.1f}%",
        "labels: 2='1' 16.7%",
        "validation: no problems",
        "items of the test split that occur in train",
    ):
        assert part in printed, part
    puzzles, solutions = sudokus(6, 2)
    halves = [
        " ".join(".123456"[v] for v in row[part]) for row in (puzzles[0], solutions[0]) for part in HALVES
    ]
    first = "{} | {}    {} | {}".format(*halves)
    assert f"test/all example 0: input and output\n{first}\n" in printed
    assert "\x1b" not in printed, "no colours outside a terminal"


def test_the_report_runs_as_a_module_and_as_a_script(sudoku_dataset):
    for command in (["-m", "dataset.report"], ["dataset/report.py"]):
        run = subprocess.run(
            [sys.executable, *command, str(sudoku_dataset)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert "validation: no problems" in run.stdout


def test_a_closed_pipe_ends_the_report_quietly(sudoku_dataset):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "dataset.report", str(sudoku_dataset)],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")


def test_problems_are_listed_and_set_the_exit_status(sudoku_dataset, capsys):
    labels = sudoku_dataset / "train" / "all__labels.npy"
    array = np.load(labels)
    array[3, 4] = 99
    np.save(labels, array)
    assert report.main([str(sudoku_dataset)]) == 1
    printed = capsys.readouterr().out
    assert "1 problem\n" in printed
    assert "row 3, cell 4 is 99" in printed
    assert "the train split cannot be read" in printed
    assert "6 examples of 6 puzzles" in printed, "the other split is described nevertheless"


def test_a_missing_dataset_gives_one_readable_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main([str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "no such dataset" in capsys.readouterr().err


def test_no_overlap_is_found_between_different_puzzles(sudoku_dataset):
    found = overlaps(sudoku_dataset)
    assert found["inputs"] == (0, 6)
    assert found["inputs up to symmetry"] == (0, 6)


def test_equal_inputs_and_outputs_are_counted_separately(tmp_path):
    train, (puzzles, solutions) = sudokus(20, 1), sudokus(6, 2)
    puzzles[:2], solutions[:2] = train[0][4:6], train[1][4:6]
    puzzles[2], solutions[2] = np.where(train[0][7] > 0, 0, train[1][7]), train[1][7]  # only the same answer
    found = overlaps(write_sudoku(tmp_path / "d", train, (puzzles, solutions)))
    distinct = {row.tobytes() for row in train[1]}
    assert found["inputs"] == (2, 6)
    assert found["outputs"] == (sum(row.tobytes() in distinct for row in solutions), 6)
    assert found["outputs"][0] >= 3


def test_a_test_puzzle_equivalent_to_a_train_puzzle_is_found(tmp_path):
    train, (puzzles, solutions) = sudokus(20, 1), sudokus(6, 2)
    relabelled = np.array([0, 4, 6, 1, 2, 3, 5])
    stacks = [3, 4, 5, 1, 0, 2]  # swapped stacks of columns, and columns within a stack
    for part, source in zip((puzzles, solutions), train, strict=True):
        part[5] = relabelled[source[9].reshape(6, 6)[[4, 5, 1, 0, 2, 3]][:, stacks]].ravel()
    found = overlaps(write_sudoku(tmp_path / "d", train, (puzzles, solutions)))
    assert found["inputs"] == (0, 6)
    assert found["inputs up to symmetry"] == (1, 6)


def test_one_copy_of_each_train_group_is_compared_up_to_symmetry(tmp_path, monkeypatch):
    hashed = []
    real = hashes.invariant_hashes
    monkeypatch.setattr(
        "dataset.families.sudoku.family.invariant_hashes",
        lambda p, s, box: hashed.append(len(p)) or real(p, s, box),
    )
    train = tuple(np.repeat(part, 5, axis=0) for part in sudokus(8, 1))
    test = tuple(part[::5] for part in train)
    assert overlaps(write_sudoku(tmp_path / "d", train, test, copies=5))["inputs up to symmetry"] == (8, 8)
    assert sum(hashed) == 16


def test_rotated_and_reversed_mazes_are_found(tmp_path):
    rng = np.random.default_rng(0)
    questions = np.array([list("# ")[value] for value in rng.integers(0, 2, 10 * 25)]).reshape(10, 25)
    questions[:, 3], questions[:, 20] = "S", "G"
    tokens = np.vectorize(lambda c: maze.SYMBOLS.index(c) + 1)(questions).astype(np.uint8)
    test = tokens[:4].copy()
    test[1] = np.rot90(test[1].reshape(5, 5)).ravel()
    test[2] = np.array([0, 1, 2, 4, 3, 5], np.uint8)[test[2]].reshape(5, 5).T.ravel()
    test[3, :3] = 4 - test[3, :3] - 1  # walls and free cells swapped, which is another maze
    for split, rows in (("train", tokens), ("test", test)):
        write_split(
            tmp_path / split, rows, rows, vocab_size=6, extra={"family": "maze", "grid_shape": [5, 5]}
        )
    found = overlaps(tmp_path)
    assert found["inputs"] == (1, 4)
    assert found["inputs rotated, mirrored or with S and G swapped"] == (3, 4)


def arc_row(grid, down=0, right=0):
    frame = np.zeros((30, 30), np.uint8)
    rows, columns = np.shape(grid)
    frame[down : down + rows, right : right + columns] = np.array(grid) + arc.FIRST_COLOUR
    frame[down + rows : down + rows + 1, right : right + columns] = 1
    frame[down : down + rows, right + columns : right + columns + 1] = 1
    return frame.ravel()


def test_arc_grids_are_compared_at_any_position_in_the_frame(tmp_path):
    grids = [[[0, 1, 2]], [[0], [1], [2]], [[3, 3], [0, 0]], np.full((30, 30), 5), np.eye(12, 30, dtype=int)]
    train = np.stack(
        [
            arc_row(grids[0], 4, 27),  # touches the right edge, so it has no border there
            arc_row(grids[1], 27, 0),
            arc_row(grids[2], 9, 9),
            arc_row(grids[3]),
            arc_row(grids[4], 18),
        ]
    )
    at_home = np.stack([arc_row(grid) for grid in grids])
    expected = np.where(at_home > 1, at_home, 0)
    np.testing.assert_array_equal(unshifted(train), expected)
    np.testing.assert_array_equal(unshifted(at_home), expected)
    write_split(tmp_path / "train", train[:4], train[:4], vocab_size=12, extra={"family": "arc"})
    write_split(tmp_path / "test", at_home[1:], at_home[[0, 0, 4, 4]], vocab_size=12, extra={"family": "arc"})
    assert overlaps(tmp_path) == {"inputs": (3, 4), "outputs": (2, 4)}


def test_arc_rows_that_differ_in_any_cell_are_distinguished(tmp_path):
    """Including cells outside the sample."""
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 10, (20, 20))
    others = np.repeat(grid[None], 400, axis=0)
    others.reshape(400, 400)[np.arange(400), np.arange(400)] += 1
    others %= 10
    train = np.stack([arc_row(grid, *rng.integers(0, 11, 2))] * 2)
    test = np.stack([arc_row(other) for other in [grid, *others]])
    write_split(tmp_path / "train", train, train, vocab_size=12, extra={"family": "arc"})
    write_split(tmp_path / "test", test, test, vocab_size=12, extra={"family": "arc"})
    assert overlaps(tmp_path) == {"inputs": (1, 401), "outputs": (1, 401)}


@pytest.mark.parametrize("seq_len", [1, 4, 7, 81, 100])
def test_equal_rows_of_any_length_are_counted_like_with_a_set(tmp_path, seq_len):
    rng = np.random.default_rng(seq_len)
    train, test = (rng.integers(0, 3, (count, seq_len)).astype(np.uint8) for count in (3000, 500))
    test[:50] = train[rng.integers(0, 3000, 50)]
    write_split(tmp_path / "train", train, train[::-1], vocab_size=9)
    write_split(tmp_path / "test", test, test[:, ::-1], vocab_size=9)
    known = {row.tobytes() for row in train}
    labelled = [row for row in test if row.any()]  # label 0 is ignored
    found = overlaps(tmp_path)
    assert found["inputs"] == (sum(row.tobytes() in known for row in test), 500)
    assert found["outputs"] == (sum(row[::-1].tobytes() in known for row in labelled), len(labelled))


def test_coloured_text_shows_the_same_symbols(sudoku_dataset):
    split = open_split(sudoku_dataset, "test")
    style, tokens = family_of(split.metadata).grid_style, split.sets["all"].inputs[0]
    (plain, width), (coloured, same_width) = (grid_lines(style, tokens, colour=c) for c in (False, True))
    assert width == same_width
    for line, other in zip(plain, coloured, strict=True):
        assert re.sub(r"\x1b\[[\d;]*m", "", other).rstrip() == line.rstrip()
        assert ("\x1b[" in other) == any(symbol not in "+-" for symbol in line)


def test_the_sheet_is_a_png_with_the_examples_in_colour(sudoku_dataset, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert report.main([str(sudoku_dataset), "--png", str(path), "--examples", "0"]) == 0
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    style = family_of(open_split(sudoku_dataset, "test").metadata).grid_style
    panel = np.asarray(grid_picture(style, open_split(sudoku_dataset, "train").sets["all"].inputs[0]))
    windows = np.lib.stride_tricks.sliding_window_view(pixels[:160, :160], panel.shape)[:, :, 0]
    first_cells = (windows[:, :, :17, :17] == panel[:17, :17]).all(axis=(2, 3, 4))
    assert any((windows[y, x] == panel).all() for y, x in zip(*np.nonzero(first_cells), strict=True))


def test_a_sheet_that_cannot_be_written_gives_one_readable_line(sudoku_dataset, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main([str(sudoku_dataset), "--png", str(tmp_path / "no" / "sheet.png")])
    assert stopped.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
