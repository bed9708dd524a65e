"""The Sudoku evaluator: valid and exact answers, by difficulty, by set, over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataset.families.sudoku.rules import BoxShape, is_solution, parse_grid, to_tokens
from dataset.format import SplitWriter, read_metadata
from evaluators.sudoku import Sudoku
from utils.errors import UserError

SHAPE = BoxShape(2, 2)
SOLUTION = "1234341221434321"
OTHER = "1243341221344321"  # a solution too; it keeps the givens of OPEN
OPEN, CLOSED = "12" + "." * 14, SOLUTION[:12] + "...."
WRONG = SOLUTION[:15] + "2"
BLANK = SOLUTION[:15] + "."


def tokens(*texts: str) -> torch.Tensor:
    return torch.tensor(np.stack([to_tokens(parse_grid(text, SHAPE)) for text in texts]), dtype=torch.int32)


def dataset(path, difficulty=None, kind="guesses", vocab_size=6, **extra) -> str:
    number = 1 if difficulty is None else len(difficulty)
    if difficulty is not None:
        extra["difficulty"] = kind
    with SplitWriter(path / "test", seq_len=16, vocab_size=vocab_size, extra=extra) as writer:
        grids = tokens(*[SOLUTION] * number).numpy()
        writer.add_groups(
            grids,
            grids,
            np.zeros(number, np.int32),
            difficulty=None if difficulty is None else np.array(difficulty),
        )
        writer.close(1)
    return str(path)


def evaluator(*paths: str) -> Sudoku:
    return Sudoku(list(paths), read_metadata(f"{paths[0]}/test"))


def batch(question: str, *answers: str) -> dict[str, torch.Tensor]:
    count = len(answers)
    rows = {"inputs": tokens(*[question] * count), "labels": tokens(*[SOLUTION] * count)}
    return rows | {"preds": tokens(*answers).long()}


def alone(value):
    return [value]


def test_the_other_solution_is_valid():
    assert is_solution(parse_grid(OTHER, SHAPE), SHAPE)


def test_a_second_solution_is_valid_but_not_exact(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a"))
    sudoku.update("all", batch(OPEN, SOLUTION, OTHER, WRONG, BLANK), torch.arange(4))
    assert sudoku.result(alone, None) == {"sudoku/valid": 0.5, "sudoku/exact": 0.25}


def test_an_answer_that_changes_a_given_cell_is_not_valid(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a"))
    sudoku.update("all", batch(CLOSED, OTHER), torch.arange(1))
    assert sudoku.result(alone, None) == {"sudoku/valid": 0.0, "sudoku/exact": 0.0}


def test_a_predicted_pad_is_not_valid(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a"))
    rows = batch(OPEN, SOLUTION)
    rows["preds"][0, 15] = 0
    sudoku.update("all", rows, torch.arange(1))
    assert sudoku.result(alone, None)["sudoku/valid"] == 0.0


def test_exact_is_broken_down_by_the_recorded_difficulty(tmp_path):
    difficulty = [0, 1, 5, 6, 20, 21, 100, 101, 5000]
    sudoku = evaluator(dataset(tmp_path / "a", difficulty))
    sudoku.update("all", batch(OPEN, SOLUTION, SOLUTION, WRONG), torch.tensor([0, 1, 2]))
    sudoku.update("all", batch(OPEN, SOLUTION, *[WRONG] * 4, OTHER), torch.tensor([8, 3, 4, 5, 6, 7]))
    values = sudoku.result(alone, None)
    assert values.pop("sudoku/valid") == pytest.approx(4 / 9)
    assert values == {
        "sudoku/exact": pytest.approx(3 / 9),
        "sudoku/exact_difficulty_0": 1.0,
        "sudoku/count_difficulty_0": 1,
        "sudoku/exact_difficulty_1-5": 0.5,
        "sudoku/count_difficulty_1-5": 2,
        "sudoku/exact_difficulty_6-20": 0.0,
        "sudoku/count_difficulty_6-20": 2,
        "sudoku/exact_difficulty_21-100": 0.0,
        "sudoku/count_difficulty_21-100": 2,
        "sudoku/exact_difficulty_over_100": 0.5,
        "sudoku/count_difficulty_over_100": 2,
    }


def test_sets_are_reported_separately_and_pooled_by_number_of_puzzles(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a", [0, 0, 3]), dataset(tmp_path / "b", [0]))
    sudoku.update("a/all", batch(OPEN, SOLUTION, WRONG, SOLUTION), torch.arange(3))
    sudoku.update("b/all", batch(OPEN, WRONG), torch.arange(1))
    values = sudoku.result(alone, None)
    assert values["sudoku/exact"] == 0.5
    assert values["sudoku/exact_difficulty_0"] == pytest.approx(1 / 3)
    assert values["sudoku/a/all/exact"] == pytest.approx(2 / 3)
    assert values["sudoku/a/all/exact_difficulty_0"] == 0.5
    assert values["sudoku/a/all/exact_difficulty_1-5"] == 1.0
    assert values["sudoku/b/all/valid"] == 0.0
    assert "sudoku/b/all/exact_difficulty_1-5" not in values


def test_guesses_and_ratings_are_not_pooled(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a", [0]), dataset(tmp_path / "b", [0], kind="rating"))
    for name in ("a/all", "b/all"):
        sudoku.update(name, batch(OPEN, SOLUTION), torch.arange(1))
    values = sudoku.result(alone, None)
    assert "sudoku/exact_difficulty_0" not in values
    assert values["sudoku/b/all/exact_difficulty_0"] == 1.0


def test_ranks_are_summed_even_if_one_has_no_rows(tmp_path):
    path = dataset(tmp_path / "a", [0, 7, 7])
    ranks = [evaluator(path) for _ in range(3)]
    ranks[0].update("all", batch(OPEN, SOLUTION, WRONG), torch.tensor([0, 1]))
    ranks[1].update("all", batch(OPEN, SOLUTION), torch.tensor([2]))
    gathered = []
    for rank in ranks:
        rank.result(lambda counts: gathered.append(counts) or [], None)
    values = ranks[0].result(lambda _: gathered, None)
    assert values["sudoku/exact"] == pytest.approx(2 / 3)
    assert values["sudoku/exact_difficulty_6-20"] == 0.5


def test_each_evaluation_starts_from_zero(tmp_path):
    sudoku = evaluator(dataset(tmp_path / "a"))
    sudoku.update("all", batch(OPEN, WRONG), torch.arange(1))
    sudoku.begin()
    assert sudoku.result(alone, None) == {}
    sudoku.update("all", batch(OPEN, SOLUTION), torch.arange(1))
    assert sudoku.result(alone, None)["sudoku/exact"] == 1.0


def test_the_recorded_box_shape_determines_validity(tmp_path):
    wide, tall = BoxShape(2, 3), BoxShape(3, 2)
    grid = np.array([[1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3]])
    grid = np.concatenate([grid, np.roll(grid, -1, axis=1)[[0, 1]], np.roll(grid, -2, axis=1)]).reshape(-1)
    assert is_solution(grid, wide)
    assert not is_solution(grid, tall)
    cells = to_tokens(grid)[None]
    for name, shape, expected in (("wide", wide, 1.0), ("tall", tall, 0.0)):
        path = tmp_path / name
        extra = {"box_shape": [shape.rows, shape.columns]}
        with SplitWriter(path / "test", seq_len=36, vocab_size=8, extra=extra) as writer:
            writer.add_group(cells, cells, np.zeros(1, np.int32))
            writer.close(1)
        rows = {name: torch.tensor(cells.astype(np.int32)) for name in ("inputs", "labels", "preds")}
        sudoku = evaluator(str(path))
        sudoku.update("all", rows, torch.arange(1))
        assert sudoku.result(alone, None)["sudoku/valid"] == expected


def test_data_that_is_not_sudoku_is_rejected(tmp_path):
    with pytest.raises(UserError, match="vocab_size is 12, but 4x4 Sudoku has 6 tokens"):
        evaluator(dataset(tmp_path / "a", vocab_size=12))
    with pytest.raises(UserError, match=r"dataset\.json: box_shape \[2, 3\] means grids of 36 cells, not 16"):
        evaluator(dataset(tmp_path / "b", box_shape=[2, 3]))
