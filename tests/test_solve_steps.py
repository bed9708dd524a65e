"""Output of `solve.py` for the steps of a model: marked cells, verdicts, and grids."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scripted_solver import ANSWER, FAMILIES, PUZZLE, RELABELLED, grid, sudoku_family, watched

from dataset.drawing.terminal import GridPrinter, wants_colour
from dataset.families.base import Family
from dataset.families.grid_style import Kind

ESCAPE = re.compile(r"\x1b\[[\d;]*m")


# ------------------------------------------------------------------------------ a scripted model

WRONG = "1243342121344313"  # its last cell is 3 instead of the given 2
STEPS = [("1211341111311312", -3.0), (WRONG, -1.0), (ANSWER, 1.0), (ANSWER, 2.0), (ANSWER, 3.0)]


def scripted(steps=STEPS) -> list[tuple[np.ndarray, float]]:
    return [(grid(text), q) for text, q in steps]


def test_each_step_marks_filled_changed_and_broken_cells():
    lines = watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted())
    start = lines.index(next(line for line in lines if line.startswith("puzzle")))
    expected = """
        puzzle        step 1: 9 changed    step 2: 7 changed    step 3: 1 changed
        1 2 | . .     halting 4.7%         halting 26.9%        halting 73.1%, says stop
        3 4 | . .     1 2 | 1*1*           1 2 | 4*3*           1 2 | 4'3'
        ----+-----    3 4 | 1*1*           3 4 | 2*1'           3 4 | 2'1'
        . . | 3 .     ----+-----           ----+-----           ----+-----
        . 3 | . 2     1*1*| 3 1*           2*1'| 3 4*           2'1'| 3 4'
                      1*3 | 1*2            4*3 | 1'3!           4'3 | 1'2*
    """
    assert lines[start : start + 7] == [line[8:] for line in expected.splitlines()[1:-1]]


def test_steps_without_changes_take_one_line():
    lines = watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted())
    assert "steps 4 to 5: no change, halting 88.1% to 95.3%" in lines
    assert sum("step 3: 1 changed" in line for line in lines) == 1


def test_the_first_step_that_says_stop_is_reported_with_its_probability_and_rule():
    lines = watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted())
    assert lines[-2] == "halting rule (q_halt > 0): says stop first at step 3, 73.1%"
    lines = watched(sudoku_family(), grid(PUZZLE), None, scripted(STEPS[:2]), compares=True)
    assert lines[-2] == "halting rule (q_halt > q_continue): never says stop; most likely at step 2, 26.9%"


def test_a_solution_counts_from_the_step_after_which_it_stays():
    assert watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted())[-1] == (
        "solved in 3 steps: valid, and equal to the answer"
    )
    back_and_forth = [STEPS[2], STEPS[1], STEPS[2]]
    assert (
        watched(sudoku_family(), grid(PUZZLE), None, scripted(back_and_forth))[-1]
        == "solved in 3 steps: valid"
    )
    assert watched(sudoku_family(), grid(PUZZLE), None, scripted(STEPS[2:]))[-1] == "solved in 1 step: valid"


def test_a_solution_that_was_lost_is_reported():
    last = watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted([STEPS[1], STEPS[2], STEPS[1]]))[-1]
    assert last == (
        "not solved: 1 row, 1 column, 1 box broken; 1 given cell changed; 15 of 16 cells as in the answer "
        "(it was solved at step 2, but changed later)"
    )


def test_a_model_that_halts_in_evaluation_stops_early():
    lines = watched(sudoku_family(), grid(PUZZLE), grid(ANSWER), scripted(), halts=True)
    assert not any("steps 4" in line or "step 4" in line for line in lines)
    assert lines[-2].endswith("this model ends there (arch.act_inference)")


@pytest.mark.parametrize(
    ("puzzle", "warning"),
    [
        (
            "11" + 14 * ".",
            "contradicts itself, so it has no solution: 1 occurs 2 times in row 1; 1 occurs 2 times",
        ),
        ("123...4.........", "the puzzle has no solution"),
        (16 * ".", "the puzzle has several solutions"),
    ],
)
def test_a_puzzle_without_a_unique_solution_gives_a_warning(puzzle, warning):
    lines = watched(sudoku_family(), grid(puzzle), None, scripted())
    place = next(i for i, line in enumerate(lines) if line.startswith("warning: "))
    assert warning in lines[place]
    assert place < next(i for i, line in enumerate(lines) if "step 1" in line)


def test_a_valid_puzzle_gives_no_warning():
    assert not any("warning" in line for line in watched(sudoku_family(), grid(PUZZLE), None, scripted()))


def test_a_solution_other_than_the_label_is_valid():
    other = ANSWER.translate(RELABELLED)
    last = watched(sudoku_family(), grid(16 * "."), grid(ANSWER), scripted([(other, 1.0)]))[-1]
    assert last == "solved in 1 step: valid, but not the one in the dataset"


def test_blank_and_padding_answers_are_wrong():
    answer = grid(ANSWER)
    answer[2:4] = [0, 1]
    lines = watched(sudoku_family(), grid(PUZZLE), None, [(answer, -1.0)])
    assert lines[-1] == "not solved: 1 row, 2 columns, 1 box broken"
    assert any(line.endswith("1 2 | ?*.") for line in lines)


# ------------------------------------------------------------------------------ drawing


def random_steps(family: Family, num_steps: int = 5) -> list[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(0)
    cells = family.shape[0] * family.shape[1]
    return [(rng.integers(2, len(family.grid_style.symbols), cells), 0.0) for _ in range(num_steps)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_fits_eighty_columns_with_and_without_colours(name):
    family = FAMILIES[name]
    question = np.full(family.shape[0] * family.shape[1], 2)
    plain, coloured = (
        watched(family, question, None, random_steps(family), colour=colour) for colour in (False, True)
    )
    drawn = slice(2, -2)  # without the sentences
    assert max(map(len, plain[drawn])) <= 80
    assert max(len(ESCAPE.sub("", line)) for line in coloured[drawn]) <= 80
    assert not any("\x1b" in line for line in plain)
    assert any("\x1b" in line for line in coloured)
    assert len(plain) == len(coloured)
    # Side by side if there is room: the puzzle and five steps take fewer than six rows of grids.
    heads = [line for line in plain if re.match(r"(puzzle|step \d)", line)]
    assert len(heads) < 6 or name == "arc"


def test_colours_distinguish_given_filled_changed_and_broken_cells():
    family = sudoku_family()
    question, previous, answer = grid(PUZZLE), grid(STEPS[0][0]), grid(WRONG)
    kind = family.kinds(question, previous, answer)
    out = io.StringIO()
    printer = GridPrinter(family.grid_style, out, colour=True, width=80)
    printer.show(["x"], answer, kind)
    printer.flush()
    last_row = out.getvalue().splitlines()[5]
    styles = re.findall(r"\x1b\[([\d;]+)m(.)\x1b\[0m", last_row)
    assert [symbol for _, symbol in styles] == list("4313")
    changed, given, filled, broken = (style for style, _ in styles)
    assert len({changed, given, filled, broken}) == 4
    assert kind[-4:].tolist() == [Kind.CHANGED, Kind.PLAIN, Kind.FILLED, Kind.BROKEN]


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_depend_on_terminal_and_environment(monkeypatch, terminal, environment, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert wants_colour(SimpleNamespace(isatty=lambda: terminal)) is expected
