"""`solve.py` for each puzzle family: parsing puzzles and judging answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scripted_solver import FAMILIES, PUZZLE, family_with, grid, sudoku_family, watched

from dataset.families.arc import grids as arc
from dataset.families.maze import rules as maze
from dataset.format import IGNORE_LABEL_ID
from utils.errors import UserError

# ------------------------------------------------------------------------------ Sudoku as text


def test_letters_of_large_grids_are_read_in_either_case():
    family = sudoku_family(4, 4)
    text = "1e10aA" + "." * 250
    assert family.read(text)[:6].tolist() == [2, 15, 2, 1, 11, 11]


def test_a_drawn_grid_is_read_as_its_cells():
    drawn = "1 2 | . .\n3 4 | . .\n----+-----\n. . | 3 .\r\n. 3 | . 2\n"
    assert np.array_equal(sudoku_family().read(drawn), grid(PUZZLE))
    assert np.array_equal(sudoku_family().read(r"12..\n34..\n..3.\n.3.2"), grid(PUZZLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12..34.5..3..3.2", "'5' at character 8; allowed are 1234, . or 0"),
        ("12..\n34.x\n..3.\n.3.2", "'x' at line 2, character 4"),
        ("12..34....3..3.", "has 15 cells, but this model solves 4x4 Sudoku with 16 cells"),
        ("1", "has 1 cell,"),
        ("", "has 0 cells"),
        ("12..34....3..3.²", "'²' at character 16"),
    ],
)
def test_an_invalid_sudoku_is_reported_with_the_position(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sudoku_family().read(text)


# ------------------------------------------------------------------------------ mazes

MAZE = ["S   #", "# # #", "  # G", " ##  ", "     "]
MAZE_FAMILY = family_with("maze", (5, 5), maze.VOCAB_SIZE)
SHORTEST = ["Sooo#", "# #o#", "  #oG", " ##  ", "     "]
LONGER = ["So  #", "#o# #", "oo# G", "o##oo", "oooo "]


def mazes(*rows: list[str]) -> np.ndarray:
    return np.stack([maze.encode("".join(lines)) for lines in rows])


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(MAZE),
        "/".join(MAZE),
        "".join(MAZE),
        "\n" + "\n".join(MAZE).replace(" ", ".") + "\n",
        r"\n".join(MAZE),
    ],
)
def test_a_maze_is_read_from_rows_or_from_one_line(text):
    assert np.array_equal(MAZE_FAMILY.read(text), mazes(MAZE)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/".join(SHORTEST), "'o' at character 2; allowed are # (wall), space or . (free), S, G"),
        ("\n".join(MAZE).replace("G", "X"), "'X' at line 3, character 5"),
        ("/".join(MAZE[:4]), "has 4 rows, but this model solves mazes of 5 rows of 5"),
        ("S#G", "has one row of 3 cells, but this model solves mazes of 5 rows of 5"),
        (
            "/".join([*MAZE[:3], MAZE[3].rstrip(), MAZE[4]]),
            "has 3 cells in row 4 instead of 5 (if trailing spaces",
        ),
        ("/".join(MAZE).replace("S", "."), "has 0 cells with S, but a maze has one"),
        ("/".join(MAZE).replace("#", "G"), "cells with G, but a maze has one"),
    ],
)
def test_an_invalid_maze_is_reported_with_the_position(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        MAZE_FAMILY.read(text)


def maze_verdict(answer: list[str], labels: list[str] | None = None) -> str:
    question, ours = mazes(MAZE, answer)
    return watched(MAZE_FAMILY, question, None if labels is None else mazes(labels)[0], [(ours, 1.0)])[-1]


def test_a_maze_is_solved_only_by_a_shortest_path():
    assert maze_verdict(SHORTEST) == "solved in 1 step: valid, a shortest path of 6 steps"
    assert maze_verdict(SHORTEST, SHORTEST).endswith("of 6 steps, and equal to the answer")
    assert maze_verdict(LONGER) == "not solved: a path of 12 steps, but 6 are enough"
    assert maze_verdict(MAZE) == "not solved: no path is marked"
    gap = [SHORTEST[0].replace("oo", " o"), *SHORTEST[1:]]
    assert maze_verdict(gap, SHORTEST) == (
        "not solved: the marked cells (4) are not one path from S to G; 24 of 25 cells as in the answer"
    )
    moved = ["Soooo", *SHORTEST[1:]]
    assert maze_verdict(moved).startswith("not solved: 1 cell of the maze changed; ")


def test_a_maze_without_a_path_gives_a_warning():
    closed = [line.replace("G", "#") for line in MAZE[:4]] + ["   #G"]
    closed[3] = " ## #"
    lines = watched(MAZE_FAMILY, mazes(closed)[0], None, [(mazes(closed)[0], 0.0)])
    assert any("G cannot be reached from S" in line for line in lines)


def test_a_maze_shows_new_removed_and_broken_cells():
    question, first, second = mazes(MAZE, LONGER, ["Sooo ", *SHORTEST[1:]])
    lines = watched(MAZE_FAMILY, question, None, [(first, -1.0), (second, -1.0)])
    assert any("SoOO!" in line for line in lines)
    assert any("#-# " in line for line in lines) or any("#-#O#" in line for line in lines)


# ------------------------------------------------------------------------------ ARC and unknown families


def test_arc_puzzles_only_come_from_the_dataset():
    with pytest.raises(UserError, match="know tasks by puzzle identifier"):
        FAMILIES["arc"].read("123")
    with pytest.raises(UserError, match="names the family 'other', which is neither one of arc"):
        FAMILIES["unknown"].read("123")


def test_only_the_grid_of_an_arc_answer_is_judged():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 10, (2, 3))
    encoded = arc.encode(colours.astype(np.uint8)).astype(np.int64)
    labels = np.where(encoded == arc.PAD, IGNORE_LABEL_ID, encoded)
    noise = np.where(encoded == arc.PAD, rng.integers(2, 12, encoded.shape), encoded)
    lines = watched(FAMILIES["arc"], encoded, labels, [(noise, 1.0), (encoded, 1.0)])
    assert lines[-1] == "solved in 1 step: equal to the answer"
    assert "step 2: no change, halting 73.1%" in lines
    wrong = encoded.copy()
    wrong[0] = (wrong[0] - 1) % 10 + 2
    assert (
        watched(FAMILIES["arc"], encoded, labels, [(wrong, 1.0)])[-1]
        == "not solved: 5 of 6 cells as in the answer"
    )
    small = arc.encode(colours[:, :2].astype(np.uint8)).astype(np.int64)
    assert (
        watched(FAMILIES["arc"], encoded, labels, [(small, 1.0)])[-1]
        == "not solved: the grid is 2x2, but the answer is 2x3"
    )
    nothing = watched(FAMILIES["arc"], encoded, labels, [(np.zeros_like(encoded), 1.0)])
    assert nothing[-1] == "not solved: the grid is empty, but the answer is 2x3"
    assert any("no grid" in line for line in nothing)


def test_an_unknown_family_is_judged_by_the_label_only():
    family = FAMILIES["unknown"]
    question, answer = np.arange(36) % 9, np.arange(36) % 7
    ignoring = np.where(np.arange(36) < 30, answer, IGNORE_LABEL_ID)
    other = np.where(np.arange(36) < 30, answer, 8)
    assert watched(family, question, ignoring, [(other, 1.0)])[-1] == "solved in 1 step: equal to the answer"
    assert (
        watched(family, question, answer, [(other, 1.0)])[-1] == "not solved: 30 of 36 cells as in the answer"
    )
    last = watched(family, question, None, [(other, 1.0)])[-1]
    assert last == "done after 1 step: unknown, because there are neither rules nor a label"
