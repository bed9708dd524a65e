"""What the start of a command costs: which splits are checked, and which modules are imported."""

from __future__ import annotations

from collections import Counter

import pytest
from training_runs import train

from benchmarks.start import write_dataset
from dataset.example_set import ExampleSet
from evaluators import plots
from evaluators.base import build_evaluators
from evaluators.sudoku import Sudoku
from puzzle_dataset import PuzzleDataset


@pytest.fixture
def sudoku(tmp_path):
    write_dataset(tmp_path / "sudoku", num_test=20, num_train=16)
    return tmp_path / "sudoku"


@pytest.fixture
def checked(monkeypatch):
    """How often the content of each split has been checked."""
    counts: Counter[str] = Counter()
    problems = ExampleSet.problems

    def counting(example_set):
        counts[example_set.split_dir.name] += 1
        return problems(example_set)

    monkeypatch.setattr(ExampleSet, "problems", counting)
    return counts


@pytest.mark.parametrize("evaluators", [None, [{"name": "sudoku@Sudoku"}]])
def test_a_training_checks_each_split_once(sudoku, tmp_path, checked, evaluators):
    assert train(sudoku, tmp_path / "run", epochs=2, evaluators=evaluators) == 0
    assert checked == {"train": 1, "test": 1}
    assert '"sudoku/valid"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_an_evaluator_opens_the_test_data_itself_if_nobody_has(sudoku, checked):
    data = PuzzleDataset([str(sudoku)], "test", global_batch_size=4)
    shared = build_evaluators(None, [str(sudoku)], data.metadata, data.splits)["Sudoku"]
    assert shared.sets["all"] is data.splits[0][1].sets["all"]
    assert checked == {"test": 1}
    assert Sudoku([str(sudoku)], data.metadata).sets.keys() == shared.sets.keys()
    assert checked == {"test": 2}


def test_plots_take_difficulties_from_the_data_that_is_open(sudoku, checked):
    data = PuzzleDataset([str(sudoku)], "test", global_batch_size=4)
    assert plots.ByDifficulty(data).unit == "rating"
    assert checked == {"test": 1}
