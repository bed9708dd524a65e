"""Neighbours of Sudoku puzzles: complete, unique, as hard, and never those of test puzzles."""

from __future__ import annotations

import numpy as np
import pytest
from sudoku_builds import SAMPLES, build, files_of, puzzles_6x6, read, table, texts, values
from training_runs import train

from dataset.build_sudoku_dataset import main
from dataset.families.sudoku.batch import all_solutions, solve_batch
from dataset.families.sudoku.generate import PuzzleSpec, generate_split
from dataset.families.sudoku.neighbours import LEAST_DIFFICULTY, with_neighbours
from dataset.families.sudoku.rules import BoxShape, format_grid
from dataset.families.sudoku.search import solve
from dataset.format import validate
from evaluators.reports.training_cost import training_cost
from trained_run import open_trained

FOUR, SIX, NINE = BoxShape(2, 2), BoxShape(2, 3), BoxShape(3, 3)


def generated(shape: BoxShape, count: int, clues: int) -> tuple[np.ndarray, np.ndarray]:
    made = generate_split(PuzzleSpec(shape, clues), count, seed=5, split=0, workers=1)
    return made.puzzles, made.solutions


@pytest.mark.parametrize(("shape", "clues"), [(FOUR, 5), (SIX, 12), (NINE, 30)])
def test_all_solutions_are_those_of_the_search(shape, clues):
    puzzles, _ = generated(shape, 8, clues)
    for row, puzzle in enumerate(puzzles):
        puzzle[np.flatnonzero(puzzle)[:row]] = 0  # from 1 to very many solutions
    owners, solutions = all_solutions(puzzles, shape, most=60)
    expected = [{format_grid(s) for s in solve(puzzle, shape, limit=61).solutions} for puzzle in puzzles]
    counts = [len(found) for found in expected]
    assert min(counts) == 1
    assert max(counts) == 61 or shape == FOUR
    for row, found in enumerate(expected):
        mine = [format_grid(solution) for solution in solutions[owners == row]]
        assert len(mine) == len({*mine})
        assert {*mine} == (found if len(found) <= 60 else set())


def test_without_a_limit_all_replacements_of_a_given_cell_are_found():
    puzzles, solutions = generated(FOUR, 6, 6)
    nothing = np.zeros((0, 16), np.uint8)
    groups = with_neighbours((puzzles, solutions), (nothing, nothing), FOUR, 10_000, [0], 1)
    for puzzle, (found, answers) in zip(puzzles, groups, strict=True):
        assert format_grid(found[0]) == format_grid(puzzle)
        guesses = solve(puzzle, FOUR).guesses
        expected = {}
        for removed in np.flatnonzero(puzzle):
            for cell, value in np.ndindex(16, 4):
                candidate = puzzle.copy()
                candidate[removed] = 0
                if candidate[cell] == 0:
                    candidate[cell] = value + 1
                    solved = solve(candidate, FOUR)
                    if solved.unique and solved.guesses >= LEAST_DIFFICULTY * guesses:
                        expected[format_grid(candidate)] = format_grid(np.array(solved.solutions[0]))
        del expected[format_grid(puzzle)]
        assert dict(zip(texts(found[1:]), texts(answers[1:]), strict=True)) == expected
        assert len(found) == 1 + len(expected) > 20


def test_a_dataset_has_each_puzzle_and_its_neighbours_in_one_group(tmp_path, capsys):
    build("--output-dir", tmp_path / "d", "--source-csv", SAMPLES, "--neighbours", 7, "--num-aug", 1)
    assert validate(tmp_path / "d") == []
    metadata, examples = read(tmp_path / "d", "train")
    puzzles, solutions = values(tmp_path / "d", "train")
    assert metadata.extra["options"]["neighbours"] == 7
    build("--output-dir", tmp_path / "plain", "--source-csv", SAMPLES)
    originals, _ = values(tmp_path / "plain", "train")
    assert examples.num_groups == len(originals)
    sizes = np.diff(examples.group_indices)
    assert sizes.max() == 2 * (1 + 7)  # each puzzle is followed by a copy
    groups = np.split(np.arange(len(puzzles)), examples.group_indices[1:-1])
    for original, group in zip(originals, groups, strict=True):
        members, answers = puzzles[group][::2], solutions[group][::2]
        assert (members[0] == original).all()
        solved = solve_batch(members, NINE)
        assert (solved.num_solutions == 1).all()
        assert (solved.solutions == answers).all()
        assert (solved.guesses >= LEAST_DIFFICULTY * solved.guesses[0]).all()
        assert len({*texts(members)}) == len(members)
        given, more = original > 0, members[1:] > 0
        kept = (given & more & (members[1:] == original)).sum(1)
        assert (kept == given.sum() - 1).all()
        assert (more.sum(1) == given.sum()).all()
    neighbours = int(sizes.sum()) // 2 - len(originals)
    assert metadata.extra["distinct_puzzles"] == len(originals) + neighbours
    assert neighbours > len(originals)
    assert (
        f"{len(originals)} puzzles, {neighbours:,} neighbours, {len(puzzles):,} examples"
        in capsys.readouterr().out
    )


def test_a_neighbour_with_the_solution_of_a_test_puzzle_is_left_out(tmp_path):
    rows = [(question, answer, "") for question, answer in puzzles_6x6(12)]
    for name, test in (("before", rows[8:]), ("after", None)):
        table(tmp_path / name, "train", rows[:8])
        if test is None:
            _, solutions = values(tmp_path / "d-before", "train")
            other = [s for s in texts(solutions) if s not in {answer for _, answer, _ in rows}]
            secret = other[0]
            test = [(secret[:30] + "." * 6, secret, "")]
        table(tmp_path / name, "test", test)
        build("--output-dir", tmp_path / f"d-{name}", "--source-csv", tmp_path / name, "--neighbours", 40)
    before, after = (texts(values(tmp_path / f"d-{name}", "train")[1]) for name in ("before", "after"))
    assert secret in before
    assert secret not in after
    assert len(after) > 8


def test_the_number_of_workers_does_not_change_the_neighbours(tmp_path):
    for workers in (1, 3):
        arguments = [
            "--output-dir",
            tmp_path / f"{workers}",
            "--generate",
            30,
            "--size",
            6,
            "--neighbours",
            5,
        ]
        main([str(argument) for argument in (*arguments, "--workers", workers)])
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_a_run_counts_neighbours_as_distinct_puzzles_but_copies_not(tmp_path):
    sizes = "--generate", 20, "--size", 4, "--neighbours", 3, "--num-aug", 2
    build("--output-dir", tmp_path / "d", *sizes)
    assert train(tmp_path / "d", tmp_path / "run", epochs=2) == 0
    cost = training_cost(open_trained(str(tmp_path / "run")))
    puzzles, _ = values(tmp_path / "d", "train")
    assert 20 < cost["distinct_puzzles"] == len(puzzles) / 3
