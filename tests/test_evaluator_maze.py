"""The maze evaluator: shares of mazes solved by any path, by a shortest one, by the labelled one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dataset.families.maze.rules import VOCAB_SIZE, encode
from dataset.format import SplitWriter, read_metadata
from evaluators.maze import Maze
from utils.errors import UserError

# An open 2x2 grid with S and G in opposite corners has two shortest paths.
QUESTION, LABEL, OTHER = "S  G", "So G", "S oG"
WIDE, WIDE_LABEL, DETOUR = "S G   ", "SoG   ", "S Gooo"  # of a 2x3 grid


def tokens(*texts: str) -> torch.Tensor:
    return torch.tensor(np.stack([encode(text) for text in texts]), dtype=torch.int32)


def dataset(path, question=QUESTION, label=LABEL, **extra) -> str:
    """Write a dataset of one maze, with these extra keys in dataset.json."""
    with SplitWriter(path / "test", seq_len=len(question), vocab_size=VOCAB_SIZE, extra=extra) as writer:
        writer.add_group(tokens(question).numpy(), tokens(label).numpy(), np.zeros(1, np.int32))
        writer.close(1)
    return str(path)


def evaluator(*paths: str) -> Maze:
    return Maze(list(paths), read_metadata(f"{paths[0]}/test"))


def batch(question: str, label: str, *predictions: str) -> dict[str, torch.Tensor]:
    count = len(predictions)
    rows = {"inputs": tokens(*[question] * count), "labels": tokens(*[label] * count)}
    return rows | {"preds": tokens(*predictions).long()}


def alone(value):
    return [value]


def test_a_different_shortest_path_is_optimal_but_not_exact(tmp_path):
    maze = evaluator(dataset(tmp_path / "a"))
    maze.update("all", batch(QUESTION, LABEL, LABEL, OTHER, QUESTION, "SooG"), torch.arange(4))
    assert maze.result(alone, None) == {"maze/valid_path": 0.5, "maze/optimal": 0.5, "maze/exact": 0.25}


def test_a_detour_is_only_valid_and_the_recorded_shape_is_used(tmp_path):
    maze = evaluator(dataset(tmp_path / "a", WIDE, WIDE_LABEL, family="maze", grid_shape=[2, 3]))
    maze.update("all", batch(WIDE, WIDE_LABEL, DETOUR, WIDE_LABEL), torch.arange(2))
    assert maze.result(alone, None) == {"maze/valid_path": 1.0, "maze/optimal": 0.5, "maze/exact": 0.5}


def test_ignored_cells_do_not_count_for_exact(tmp_path):
    maze = evaluator(dataset(tmp_path / "a"))
    rows = batch(QUESTION, LABEL, QUESTION)
    rows["labels"][0, 1] = -100
    maze.update("all", rows, torch.arange(1))
    assert maze.result(alone, None) == {"maze/valid_path": 0.0, "maze/optimal": 0.0, "maze/exact": 1.0}


def test_several_sets_are_reported_separately_and_pooled_by_number_of_mazes(tmp_path):
    maze = evaluator(dataset(tmp_path / "a"))
    maze.update("one", batch(QUESTION, LABEL, LABEL, LABEL), torch.arange(2))
    maze.update("one", batch(QUESTION, LABEL, OTHER), torch.arange(2, 3))
    maze.update("two", batch(QUESTION, LABEL, QUESTION), torch.arange(1))
    assert maze.result(alone, None) == {
        "maze/valid_path": 0.75,
        "maze/optimal": 0.75,
        "maze/exact": 0.5,
        "maze/one/valid_path": 1.0,
        "maze/one/optimal": 1.0,
        "maze/one/exact": pytest.approx(2 / 3),
        "maze/two/valid_path": 0.0,
        "maze/two/optimal": 0.0,
        "maze/two/exact": 0.0,
    }


def test_ranks_are_summed_even_if_one_has_no_rows(tmp_path):
    path = dataset(tmp_path / "a")
    ranks = [evaluator(path) for _ in range(3)]
    ranks[0].update("all", batch(QUESTION, LABEL, LABEL, QUESTION), torch.arange(2))
    ranks[1].update("all", batch(QUESTION, LABEL, LABEL), torch.arange(2, 3))
    gathered = []
    for rank in ranks:
        rank.result(lambda counts: gathered.append(counts) or [], None)
    expected = {f"maze/{metric}": pytest.approx(2 / 3) for metric in Maze.METRICS}
    for rank in ranks:
        assert rank.result(lambda _: gathered, None) == expected


def test_each_evaluation_starts_from_zero(tmp_path):
    maze = evaluator(dataset(tmp_path / "a"))
    maze.update("all", batch(QUESTION, LABEL, QUESTION), torch.arange(1))
    maze.begin()
    assert maze.result(alone, None) == {}
    maze.update("all", batch(QUESTION, LABEL, LABEL), torch.arange(1))
    assert maze.result(alone, None)["maze/exact"] == 1.0


def test_data_with_another_vocabulary_is_rejected(tmp_path):
    path = dataset(tmp_path / "a")
    described = tmp_path / "a" / "test" / "dataset.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "vocab_size": 11}))
    with pytest.raises(UserError, match="vocab_size 11"):
        evaluator(path)


def test_a_shape_that_does_not_fit_the_cells_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"a/test/dataset\.json: grid_shape is \[2, 3\]"):
        evaluator(dataset(tmp_path / "a", grid_shape=[2, 3]))
    with pytest.raises(UserError, match="6 cells"):
        evaluator(dataset(tmp_path / "b", WIDE, WIDE_LABEL))


def test_directories_with_different_shapes_are_rejected_by_name(tmp_path):
    one = dataset(tmp_path / "one", WIDE, WIDE_LABEL, grid_shape=[2, 3])
    two = dataset(tmp_path / "two", WIDE, WIDE_LABEL, grid_shape=[3, 2])
    with pytest.raises(UserError, match=r"\[2, 3\] in .*one and \[3, 2\] in .*two"):
        evaluator(one, two)
